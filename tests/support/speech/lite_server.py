"""A scripted media server on loopback, with the library's server role."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed as SocketClosed
from websockets.http11 import Request, Response

from liveavatar_lite import (
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    AgentStateUpdated,
    AudioBufferAppended,
    AudioBufferCleared,
    AudioBufferCommitted,
    Command,
    ServerProtocol,
    SessionPhase,
    SpeakEnded,
    SpeakStarted,
)

SECRET = "fake-secret-in-the-url"
CHUNK = bytes(9_600)


class Media:
    """One connection's server side: a `ServerProtocol`, its socket and the commands received."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.protocol = ServerProtocol()
        self.commands: list[Command] = []

    async def emit(self, *frames: str) -> None:
        for frame in frames:
            await self.socket.send(frame)

    async def connect(self) -> None:
        await self.emit(self.protocol.enter(SessionPhase.NEW))
        await self.emit(self.protocol.enter(SessionPhase.CONNECTED))

    async def serve(self, answer: bool = True) -> None:
        async for frame in self.socket:
            for command in self.protocol.receive(frame):
                self.commands.append(command)
                if answer:
                    await self.answer(command)
            await self.emit(*self.protocol.replies_to_send())

    async def answer(self, command: Command) -> None:
        emit = self.protocol.emit
        match command:
            case AgentSpeak(event_id=source):
                await self.emit(emit(AudioBufferAppended("s", source, "t")))
            case AgentSpeakEnd(event_id=source):
                await self.emit(
                    emit(AudioBufferCommitted("s", source)),
                    emit(AgentStateUpdated("idle", "talking")),
                    emit(SpeakStarted("s", source)),
                    emit(SpeakEnded("s", source)),
                    emit(AgentStateUpdated("talking", "idle")),
                )
            case AgentInterrupt(event_id=source):
                await self.emit(emit(AudioBufferCleared("s", source)))
            case _:
                pass


Script = Callable[[Media], Awaitable[None]]
Gate = Callable[[ServerConnection, Request], Response | None]


@asynccontextmanager
async def media_server(
    script: Script, gate: Gate | None = None, security: tls.SSLContext | None = None
) -> AsyncIterator[SecretStr]:
    """Serves each connection by the script; yields the ws_url."""

    async def handle(socket: ServerConnection) -> None:
        with suppress(SocketClosed):
            await script(Media(socket))

    async with serve(
        handle, "127.0.0.1", 0, process_request=gate, compression=None, ssl=security
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        scheme = "ws" if security is None else "wss"
        yield SecretStr(f"{scheme}://127.0.0.1:{port}/session/{SECRET}")


async def obedient(media: Media) -> None:
    await media.connect()
    await media.serve()


@asynccontextmanager
async def deaf_server() -> AsyncIterator[SecretStr]:
    """Connects the session and then reads nothing more, not even a close."""
    over = asyncio.Event()

    async def deaf(media: Media) -> None:
        await media.connect()
        media.socket.transport.pause_reading()
        await over.wait()
        media.socket.transport.abort()

    async with media_server(deaf) as ws_url:
        try:
            yield ws_url
        finally:
            over.set()


def self_signed(folder: Path) -> tuple[tls.SSLContext, tls.SSLContext]:
    """Contexts for a server on loopback and for a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "media server of a test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(private + public)
    server_tls = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(folder / "server.pem")
    return server_tls, tls.create_default_context(cadata=public.decode())
