"""The media server: LITE's WebSocket in the server's role.

Frames in and out; what commands do is the session's part. A client that does not read is cut when
its queue is full: nothing here waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from liveavatar_lite.messages import MAX_FRAME_BYTES, ServerEvent
from liveavatar_lite.protocol import ServerProtocol
from liveavatar_lite.protocol import SessionPhase as SocketPhase
from liveavatar_simulator.faults import Faults
from liveavatar_simulator.session import SimulatedSession
from liveavatar_simulator.settings import SimulatorSettings

from .http_server import printable_host

log = logging.getLogger(__name__)
# websockets' DEBUG lines show request paths, and with them credentials.
_library_log = logging.getLogger(f"{__name__}.websockets")
_library_log.setLevel(logging.WARNING)

PATH: Final = "/v2-alpha/interactive-avatar/session"
QUEUE_FRAMES: Final = 1000
CLOSE_TIMEOUT_S: Final = 2.0
READ_LIMIT_BYTES: Final = 4 * MAX_FRAME_BYTES
"""Above the protocol's limit, so that a frame over that limit can be answered."""

FindSession = Callable[[str], SimulatedSession | None]


class MediaSocket:
    """One client's connection to one session: a `SimulatedSocket`."""

    def __init__(
        self, connection: ServerConnection, session: SimulatedSession, settings: SimulatorSettings
    ) -> None:
        self._connection = connection
        self._session = session
        self._settings = settings
        self._protocol = ServerProtocol(dialect=settings.state_names)
        self._outbox: asyncio.Queue[str] = asyncio.Queue(QUEUE_FRAMES)
        self._stalled = False
        self.number = 0

    async def run(self, *, connects: bool, stalls: bool) -> None:
        """Serve until the connection is closed.

        Args:
            connects: False: state connected is never reached.
            stalls: True: the socket stalls when it has reached state connected.
        """
        name = f"socket-{self._session.session_id[:8]}"
        self._push(self._protocol.enter(SocketPhase.NEW))
        helpers = [asyncio.create_task(self._write(), name=f"{name}-write")]
        if connects:
            connecting = self._become_connected(stalls=stalls)
            helpers.append(asyncio.create_task(connecting, name=f"{name}-connect"))
        try:
            await self._read()
        except ConnectionClosed:
            pass
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    def send(self, event: ServerEvent) -> None:
        """Queue an event; before state connected, events are dropped."""
        if self._protocol.phase is SocketPhase.CONNECTED:
            self._push(self._protocol.emit(event))

    async def close(self, code: int, reason: str = "") -> None:
        """Send the final state and close. Bounded."""
        if self._stalled:
            self.drop()
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                if self._protocol.phase is not SocketPhase.CLOSED:
                    final = (SocketPhase.CLOSING, SocketPhase.CLOSED)
                    for frame in dict.fromkeys(self._protocol.enter(each) for each in final):
                        self._push(frame)
                await self._flush()
                await self._connection.close(code, reason)
        except (ConnectionClosed, TimeoutError):
            self.drop()

    def drop(self) -> None:
        """Cut the connection without a closing handshake: the client sees 1006."""
        self._connection.transport.abort()

    @property
    def stalled(self) -> bool:
        """Whether `stall` was called."""
        return self._stalled

    def stall(self) -> None:
        """Stop reading and sending; not even the client's close is noticed.

        What the client still sends stays in the operating system's buffers.
        """
        self._stalled = True
        self._connection.transport.pause_reading()
        while not self._outbox.empty():
            self._outbox.get_nowait()

    async def _read(self) -> None:
        while True:
            frame = await self._connection.recv()
            if self._stalled:
                # `recv` may have resumed reading.
                self._connection.transport.pause_reading()
                await self._connection.wait_closed()
                return
            before = self._protocol.dropped_commands
            for command in self._protocol.receive(frame):
                self._session.handle(command, self)
            self._session.commands_ignored += self._protocol.dropped_commands - before
            for reply in self._protocol.replies_to_send():
                self._push(reply)
            if self._protocol.close_code is not None:
                await self._flush()
                await self._connection.close(self._protocol.close_code)
                return

    async def _write(self) -> None:
        try:
            while True:
                await self._connection.send(await self._outbox.get())
        except ConnectionClosed:
            return

    async def _flush(self) -> None:
        while not self._outbox.empty():
            await self._connection.send(self._outbox.get_nowait())

    async def _become_connected(self, *, stalls: bool) -> None:
        await asyncio.sleep(self._settings.connect_delay_s)
        await self._session.avatar_joined.wait()
        self._push(self._protocol.enter(SocketPhase.CONNECTED))
        if stalls:
            await self._flush()
            self.stall()

    def _push(self, frame: str) -> None:
        if self._stalled:
            return
        try:
            self._outbox.put_nowait(frame)
        except asyncio.QueueFull:
            log.warning("session %s: the client does not read", self._session.session_id)
            self.drop()


class MediaServer:
    """Accepts the sockets of all sessions."""

    def __init__(
        self, settings: SimulatorSettings, find: FindSession, faults: Callable[[], Faults]
    ) -> None:
        self._settings = settings
        self._find = find
        self._faults = faults
        self._server: Server | None = None
        self._origin = ""

    async def open(self, listener: sockets.socket) -> None:
        """Serve on a bound socket."""
        host, port = listener.getsockname()[:2]
        self._origin = f"ws://{self._settings.public_host or printable_host(host)}:{port}"
        self._server = await serve(
            self._serve_connection,
            sock=listener,
            process_request=self._check_request,
            compression=None,
            max_size=READ_LIMIT_BYTES,
            ping_interval=None,
            close_timeout=CLOSE_TIMEOUT_S,
            logger=_library_log,
        )

    async def close(self) -> None:
        """Stop listening, and close open sockets. Bounded by their close timeout."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def ws_url(self, session: SimulatedSession) -> str:
        """The session's media URL. It is a credential: a client that has it can speak."""
        return f"{self._origin}{PATH}/{session.session_id}?key={session.socket_key}"

    def _session_of(self, request: Request) -> tuple[SimulatedSession | None, HTTPStatus]:
        parts = urlsplit(request.path)
        folder, _, session_id = parts.path.rpartition("/")
        session = self._find(session_id) if folder == PATH else None
        key = parse_qs(parts.query).get("key", [""])[0]
        if session is None or not session.opens_with(key):
            return None, HTTPStatus.FORBIDDEN
        if not session.accepts_sockets:
            return None, HTTPStatus.NOT_FOUND
        return session, HTTPStatus.SWITCHING_PROTOCOLS

    def _check_request(self, connection: ServerConnection, request: Request) -> Response | None:
        session, status = self._session_of(request)
        if session is None:
            return connection.respond(status, f"{status.phrase}\n")
        return None

    async def _serve_connection(self, connection: ServerConnection) -> None:
        request = connection.request
        session, _ = self._session_of(request) if request is not None else (None, None)
        if session is None:
            return  # the session ended after the handshake
        socket = MediaSocket(connection, session, self._settings)
        replaced = session.attach(socket)
        try:
            if replaced is not None:
                await replaced.close(1000, "replaced by a newer connection")
            faults = self._faults()
            await socket.run(
                connects=not faults.take("never_connected"),
                stalls=faults.take("black_holes_at_once"),
            )
        finally:
            session.detach(socket)
