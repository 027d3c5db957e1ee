"""The media WebSocket of one session: `protocol`'s client role on a real socket.

Reads continuously, sends commands, yields events, and closes in bounded time. It does not
reconnect, pace or split audio: `audio` has the arithmetic, and retries are the caller's.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

from pydantic import SecretStr
from websockets import exceptions as ws_errors
from websockets.asyncio.client import ClientConnection, connect
from websockets.protocol import State

from ._frames import masked_text
from .errors import (
    ConnectionClosed,
    ConnectionDead,
    ConnectionFailed,
    ConnectionLost,
    ConnectionRefused,
    EventsUnread,
    NeverConnected,
)
from .messages import MAX_FRAME_BYTES, AudioBufferAppended, AudioBufferCommitted
from .protocol import CLOSE_ABNORMAL, CLOSE_NORMAL, ClientProtocol, Event, SessionPhase

PING_INTERVAL_S: Final = 20.0
"""Pings keep the connection open in middleboxes. A missing pong never ends it: LiveAvatar's media
servers delay pongs under load, and clients that relied on them ended good sessions (1011)."""
DEAD_AFTER_S: Final = 5.0
"""Without any frame for this long after a chunk, the socket is dead, whatever TCP reports."""
WATCH_INTERVAL_S: Final = 0.5
CLOSED_GRACE_S: Final = 3.0
"""How long a socket may stay open after the service has reported the session closed."""
SEND_TIMEOUT_S: Final = 10.0
WRITE_LIMIT_BYTES: Final = 32_768
"""Commands wait while more than this is buffered in user space: half a second of speech."""
MAX_UNREAD_EVENTS: Final = 256
CLOSE_TIMEOUT_S: Final = 3.0


class _WithoutFrames(logging.LoggerAdapter[logging.Logger]):
    """websockets' logger without level DEBUG, which shows the URL (a secret) and the audio."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)


_WIRE_LOGGER: Final = _WithoutFrames(logging.getLogger(f"{__name__}.wire"), {})


class LiteConnection:
    """One connected media WebSocket, made by `open`; an async context manager that closes it.

    Commands may be called from several tasks; they are sent in the order of the calls. They raise
    `ConnectionClosed` after `close`, `ConnectionLost` after the other side ended the connection,
    and the errors of `ClientProtocol` for illegal commands.

    Attributes:
        last_heard_s: when the last frame arrived, by ``time.monotonic``.
    """

    def __init__(
        self,
        socket: ClientConnection,
        *,
        dead_after_s: float,
        max_unread_events: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Internal: call `open`, which also waits until the session is connected."""
        self.last_heard_s = clock()
        self._socket = socket
        self._clock = clock
        self._dead_after_s = dead_after_s
        self._protocol = ClientProtocol()
        self._unread: deque[Event] = deque()
        self._max_unread_events = max_unread_events
        self._changed = asyncio.Event()  # set by each event and at the end
        self._was_connected = False  # the phase has been CONNECTED
        # Set once, by `close` or by a failure detected here. If the other side ended the
        # connection, only the protocol's close_code is set.
        self._failure: ConnectionFailed | None = None
        self._reader = asyncio.create_task(self._read(), name="lite-reader")
        self._watchdog = asyncio.create_task(self._watch(), name="lite-watchdog")

    @classmethod
    async def open(
        cls,
        ws_url: SecretStr,
        *,
        open_timeout_s: float = 10.0,
        connected_timeout_s: float = 15.0,
        ssl: tls.SSLContext | None = None,
        dead_after_s: float = DEAD_AFTER_S,
        max_unread_events: int = MAX_UNREAD_EVENTS,
    ) -> Self:
        """Open the socket and wait until the service reports the session connected.

        Before that the service drops commands silently.

        Args:
            ws_url: from `StartedSession`. It is a credential, and never logged.
            open_timeout_s: for TCP, TLS and the WebSocket handshake.
            connected_timeout_s: from then until ``connected``.
            ssl: for ``wss``, where the system's certificates do not apply.
            dead_after_s: silence after a chunk, after which the connection fails with
                `ConnectionDead`.
            max_unread_events: how far a reader of `events` may fall behind.

        Raises:
            ConnectionRefused: the handshake was answered with an HTTP error.
            NeverConnected: the session did not become connected for another reason.
        """
        socket = await _open_socket(ws_url, open_timeout_s, ssl)
        connection = cls(socket, dead_after_s=dead_after_s, max_unread_events=max_unread_events)
        try:
            await connection._connected(connected_timeout_s)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"LiteConnection(phase={self.phase.name}, close_code={self.close_code})"

    # --- state ----------------------------------------------------------------------------

    @property
    def phase(self) -> SessionPhase:
        """The phase of the session."""
        return self._protocol.phase

    @property
    def pose(self) -> str | None:
        """The avatar's pose (`AgentState`, or an unknown name); None before the first report."""
        return self._protocol.pose

    @property
    def open_utterance(self) -> str | None:
        """The utterance that takes audio now, if any."""
        return self._protocol.open_utterance

    @property
    def chunks_sent(self) -> int:
        """The number of chunks sent on this connection."""
        return self._protocol.chunks_sent

    @property
    def chunks_acked(self) -> int:
        """The number of those chunks that the service has acknowledged, in order."""
        return self._protocol.chunks_acked

    @property
    def close_code(self) -> int | None:
        """The WebSocket close code; None while the connection is open.

        1000 after `close` and after the service's orderly close; 1006 without a closing handshake,
        or if the connection was given up although the socket looked open.
        """
        return self._protocol.close_code

    @property
    def close_reason(self) -> str:
        """The other side's close reason, often empty."""
        return self._protocol.close_reason

    # --- commands -------------------------------------------------------------------------

    async def speak(self, pcm: bytes, utterance_id: str) -> None:
        """Send a chunk of PCM: s16le mono 24 kHz. Waits while the network stalls (back-pressure).

        Raises:
            BadAudio, FrameTooLarge, IllegalTransition, ProtocolViolation: see `ClientProtocol`.
        """
        self._check_usable()
        await self._send(self._protocol.speak(pcm, utterance_id))

    async def speak_end(self, utterance_id: str) -> None:
        """End the utterance's input: the avatar plays what it has, then rests."""
        self._check_usable()
        await self._send(self._protocol.speak_end(utterance_id))

    def adopt(self, utterance_id: str) -> None:
        """Continue an utterance of an earlier connection; see `ClientProtocol.adopt`."""
        self._check_usable()
        self._protocol.adopt(utterance_id)

    async def interrupt(self, event_id: str | None = None) -> str:
        """Interrupt everything sent so far; returns the interrupt's id.

        Stop sending first: a chunk sent afterwards opens a new utterance.
        """
        self._check_usable()
        event_id = event_id or str(uuid4())
        await self._send(self._protocol.interrupt(event_id))
        return event_id

    async def start_listening(self) -> None:
        """Take the attentive pose."""
        self._check_usable()
        await self._send(self._protocol.start_listening())

    async def stop_listening(self) -> None:
        """Leave the attentive pose."""
        self._check_usable()
        await self._send(self._protocol.stop_listening())

    async def keep_alive(self) -> None:
        """Extend the service's idle window of five minutes. Pings do not count for that."""
        self._check_usable()
        await self._send(self._protocol.keep_alive())

    # --- events ---------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[Event]:
        """The service's events, until the connection is closed by either side.

        Acknowledgements of chunks and of speak_end are left out: the protocol consumes them. For
        one reader, which must keep up: beyond ``max_unread_events`` the connection fails.

        Raises:
            ConnectionDead: chunks were sent, and no frame came back.
            EventsUnread: more than ``max_unread_events`` were not read.
        """
        while True:
            while self._unread:
                yield self._unread.popleft()
            if self.close_code is not None:
                break
            self._changed.clear()
            await self._changed.wait()
        if self._failure is not None and not isinstance(self._failure, ConnectionClosed):
            raise self._failure

    # --- the end --------------------------------------------------------------------------

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Close the socket within ``timeout_s``. Safe to repeat.

        Does not stop the session: billing continues until ``stop_session``.
        """
        self._end(
            CLOSE_NORMAL, "closed by the client", ConnectionClosed("the connection was closed")
        )
        self._watchdog.cancel()
        try:
            async with asyncio.timeout(timeout_s):
                await self._socket.close()
                await asyncio.wait({self._reader})
        except TimeoutError:
            pass  # aborted below
        finally:
            self._socket.transport.abort()
            self._reader.cancel()
            await asyncio.wait({self._reader, self._watchdog})
        for task in (self._reader, self._watchdog):
            if not task.cancelled():
                task.result()  # a bug of this package must not be lost

    # --- inside ---------------------------------------------------------------------------

    async def _connected(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not self._was_connected and self.close_code is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise NeverConnected(
                f"the socket opened, but the session is {self.phase.name} after {timeout_s:g} s"
            ) from None
        if not self._was_connected:
            raise NeverConnected(
                f"the session ended before it was connected (close code {self.close_code})"
            )
        # A connection that has ended since is returned too: its events and close code say how.

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _send(self, frame: bytes) -> None:
        # What websockets' own send does, without its contexts and without a timeout. They cost more
        # than encoding and masking a chunk, and there is rarely anything to wait for.
        written = self._write(frame)
        if written and self._socket.transport.get_write_buffer_size() <= WRITE_LIMIT_BYTES:
            return
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                if written:
                    await self._socket.drain()
                else:
                    await self._socket.send(frame, text=True)  # raises how the socket ended
        except TimeoutError:
            self._fail(ConnectionDead(SEND_TIMEOUT_S))
        except (ws_errors.ConnectionClosed, OSError):
            self._note_the_end()
        else:
            return
        self._check_usable()
        raise ConnectionLost(self.close_code or CLOSE_ABNORMAL, self.close_reason)

    def _write(self, frame: bytes) -> bool:
        """Write the whole frame to the transport; False if the socket is closing.

        websockets cannot be in the middle of a frame: it also writes whole frames, and only this
        class sends messages, never in fragments.
        """
        transport = self._socket.transport
        if self._socket.state is not State.OPEN or transport.is_closing():
            return False
        transport.write(masked_text(frame))
        return True

    async def _read(self) -> None:
        """Read until the socket ends. Starts in the constructor, so that no event is missed."""
        try:
            while True:
                frame = await self._socket.recv(decode=False)
                self.last_heard_s = self._clock()
                for event in self._protocol.receive(frame, self.last_heard_s):
                    self._keep(event)
                self._was_connected |= self.phase is SessionPhase.CONNECTED
        except ws_errors.ConnectionClosed as error:
            if error.rcvd is not None:
                self.last_heard_s = self._clock()  # a close frame counts, too
        finally:  # also after a bug, or `events` would wait forever
            self._note_the_end()

    def _keep(self, event: Event) -> None:
        if isinstance(event, AudioBufferAppended | AudioBufferCommitted) or self._failure:
            return
        if len(self._unread) >= self._max_unread_events:
            self._fail(EventsUnread(f"{len(self._unread)} events wait: iterate events()"))
            return
        self._unread.append(event)
        self._changed.set()

    async def _watch(self) -> None:
        """Detect a dead socket, and close one that outlives its session."""
        closed_since_s: float | None = None
        while self.close_code is None:
            await asyncio.sleep(min(WATCH_INTERVAL_S, self._dead_after_s / 4))
            now_s = self._clock()
            silent_s = self._protocol.silent_s(now_s)
            if silent_s >= self._dead_after_s:
                self._fail(ConnectionDead(silent_s))
            if self.phase is SessionPhase.CLOSED:
                closed_since_s = now_s if closed_since_s is None else closed_since_s
                if now_s - closed_since_s >= CLOSED_GRACE_S:
                    await self._socket.close()  # `_read` notes the end

    def _note_the_end(self) -> None:
        """Take over from websockets how the socket was closed."""
        code, reason = self._socket.close_code, self._socket.close_reason
        self._end(CLOSE_ABNORMAL if code is None else code, reason or "")

    def _fail(self, failure: ConnectionFailed) -> None:
        """Fail the connection and abort its socket, without a closing handshake."""
        self._end(CLOSE_ABNORMAL, str(failure), failure)
        self._socket.transport.abort()

    def _end(self, code: int, reason: str, failure: ConnectionFailed | None = None) -> None:
        """Record how the connection ended; only the first report counts."""
        if isinstance(failure, ConnectionClosed) and self._failure is None:
            self._failure = failure  # after `close`, the better error for commands
        if self.close_code is None:
            self._failure = failure
            self._protocol.closed(code, reason)
        self._changed.set()


async def _open_socket(
    ws_url: SecretStr, open_timeout_s: float, ssl: tls.SSLContext | None
) -> ClientConnection:
    """Open the socket, and map websockets' errors to this package's.

    Their texts can hold the URL, which is a secret: they are neither quoted nor chained.
    """
    failure: ConnectionFailed
    # An explicit None would forbid wss.
    security: dict[str, Any] = {} if ssl is None else {"ssl": ssl}
    try:
        return await connect(
            ws_url.get_secret_value(),
            compression=None,  # base64 PCM hardly compresses, at 20 times the CPU
            open_timeout=open_timeout_s,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=None,
            max_size=MAX_FRAME_BYTES,
            write_limit=WRITE_LIMIT_BYTES,
            logger=_WIRE_LOGGER,
            **security,
        )
    except ws_errors.InvalidStatus as error:
        failure = ConnectionRefused(error.response.status_code)
    except ws_errors.InvalidURI:
        failure = NeverConnected("ws_url is not the address of a WebSocket")
        failure.retryable = False
    except TimeoutError:
        failure = NeverConnected(f"the media server did not answer within {open_timeout_s:g} s")
    except OSError as error:
        failure = NeverConnected(f"the media server cannot be reached: {error.strerror or error}")
    except (ws_errors.WebSocketException, EOFError, ValueError) as error:
        failure = NeverConnected(f"the WebSocket handshake failed ({type(error).__name__})")
    raise failure
