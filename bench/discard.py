"""A WebSocket server that discards everything: the receiver of the send benchmarks.

Runs in a process of its own, so that its CPU time is not counted. It answers the handshake (with
compression, if the client offers it), reports the session as connected, and discards what arrives.
It parses no frames: otherwise slow reading would be measured as slow sending.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from deploy.local.ports import LOOPBACK
from deploy.local.settings import ROOT
from liveavatar_lite.protocol import ServerProtocol, SessionPhase

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_READ_BYTES: Final = 1 << 20
_DEFLATE: Final = b"permessage-deflate"


@asynccontextmanager
async def discarding_server() -> AsyncIterator[int]:
    """Run the server in a process of its own; yields its port."""
    argv = (sys.executable, "-m", "bench.discard")
    process = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, cwd=ROOT)
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


def upgrade_reply(request: bytes) -> bytes:
    """The reply to a WebSocket handshake: 101, with compression if the client offered it."""
    headers = {
        name.strip().lower(): text.strip()
        for name, _, text in (line.partition(b":") for line in request.split(b"\r\n")[1:])
    }
    accept = hashlib.sha1(headers[b"sec-websocket-key"] + _GUID, usedforsecurity=False).digest()
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + base64.b64encode(accept),
    ]
    if _DEFLATE in headers.get(b"sec-websocket-extensions", b""):
        lines.append(b"Sec-WebSocket-Extensions: " + _DEFLATE)
    return b"\r\n".join([*lines, b"", b""])


def _connected_frame() -> bytes:
    text = ServerProtocol().enter(SessionPhase.CONNECTED).encode()
    assert len(text) < 126
    return bytes((0x81, len(text))) + text


def _serve(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(4096)
        connection.sendall(upgrade_reply(request) + _connected_frame())
        buffer = bytearray(_READ_BYTES)
        while connection.recv_into(buffer):
            pass


def main() -> None:
    """Serve until killed; the port is the first line of the output."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
