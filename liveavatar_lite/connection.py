"""The media WebSocket of one session: `protocol`'s client role on a real socket.

Reads always, sends what it is told, tells what it hears, and ends in bounded time. It does not
reconnect, pace or cut audio: `audio` has the arithmetic, and when to try again is the caller's.
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
"""Pings keep middleboxes awake. A missing pong never ends the connection: LiveAvatar's media
servers stall pongs under load, and clients that believed them killed good sessions (1011)."""
DEAD_AFTER_S: Final = 5.0
"""Chunks sent and nothing at all back for so long: the socket is dead, whatever TCP says."""
WATCH_INTERVAL_S: Final = 0.5
FAREWELL_S: Final = 3.0
"""How long a socket may stay open after the service called the session closed."""
SEND_TIMEOUT_S: Final = 10.0
WRITE_LIMIT_BYTES: Final = 32_768
"""Commands wait while more than this is left that the kernel did not take: half a second."""
MAX_UNREAD_EVENTS: Final = 256
CLOSE_TIMEOUT_S: Final = 3.0


class _WithoutFrames(logging.LoggerAdapter[logging.Logger]):
    """websockets' log without its DEBUG level, which shows the URL (a secret) and the audio."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)


_WIRE_LOGGER: Final = _WithoutFrames(logging.getLogger(f"{__name__}.wire"), {})


class LiteConnection:
    """One open, connected media WebSocket. Made by `open`; an async context manager that closes.

    Commands may be given from several tasks; they go out in the order of the calls. They raise
    `ConnectionClosed` after our own `close`, `ConnectionLost` once the other side ended it, and
    what `ClientProtocol` raises for commands that make no sense.

    Attributes:
        last_heard_s: when the last frame came, by ``time.monotonic``.
    """

    def __init__(
        self,
        socket: ClientConnection,
        *,
        dead_after_s: float,
        max_unread_events: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Not for use: call `open`, which also waits until the session is connected."""
        self.last_heard_s = clock()
        self._socket = socket
        self._clock = clock
        self._dead_after_s = dead_after_s
        self._protocol = ClientProtocol()
        self._unread: deque[Event] = deque()
        self._max_unread_events = max_unread_events
        self._news = asyncio.Event()  # set on each event and at the end
        self._was_connected = False  # the phase was CONNECTED once, whatever came since
        # Set once, by our close or by a failure that we found; the other side's end is the
        # protocol's close_code alone.
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
        """Open the socket and wait until the service calls the session connected.

        Before that the service drops commands silently, so there is no connection to hand out.

        Args:
            ws_url: from `StartedSession`. Whoever has it can speak; it is never logged.
            open_timeout_s: for TCP, TLS and the WebSocket handshake.
            connected_timeout_s: from then until ``connected``.
            ssl: for ``wss``, where the system's certificates are not the right ones.
            dead_after_s: silence after a chunk that ends the connection with `ConnectionDead`.
            max_unread_events: how far a reader of `events` may fall behind.

        Raises:
            ConnectionRefused: the handshake was answered with an HTTP error.
            NeverConnected: anything else that kept the session from becoming connected.
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
        """Where the session stands."""
        return self._protocol.phase

    @property
    def pose(self) -> str | None:
        """The avatar's pose (`AgentState`, or a new name); None until the first sign of it."""
        return self._protocol.pose

    @property
    def open_utterance(self) -> str | None:
        """The utterance that takes audio now, if there is one."""
        return self._protocol.open_utterance

    @property
    def chunks_sent(self) -> int:
        """How many chunks were sent on this connection."""
        return self._protocol.chunks_sent

    @property
    def chunks_acked(self) -> int:
        """How many chunks of this connection the service has acknowledged; in order."""
        return self._protocol.chunks_acked

    @property
    def close_code(self) -> int | None:
        """How the connection ended; None while it has not.

        1000 for our own `close` and for the service's orderly one; 1006 where there was no closing
        handshake, or where we gave up on a socket that looked open.
        """
        return self._protocol.close_code

    @property
    def close_reason(self) -> str:
        """The other side's words at the end, often empty."""
        return self._protocol.close_reason

    # --- commands -------------------------------------------------------------------------

    async def speak(self, pcm: bytes, utterance_id: str) -> None:
        """Send a chunk of PCM: s16le mono 24 kHz. Waits where the network does (back-pressure).

        Raises:
            BadAudio, FrameTooLarge, IllegalTransition, ProtocolViolation: see `ClientProtocol`.
        """
        self._check_usable()
        await self._send(self._protocol.speak(pcm, utterance_id))

    async def speak_end(self, utterance_id: str) -> None:
        """Seal the utterance: the avatar plays what it has and rests."""
        self._check_usable()
        await self._send(self._protocol.speak_end(utterance_id))

    def adopt(self, utterance_id: str) -> None:
        """Go on with an utterance of an earlier connection; see `ClientProtocol.adopt`."""
        self._check_usable()
        self._protocol.adopt(utterance_id)

    async def interrupt(self, event_id: str | None = None) -> str:
        """Cut everything sent so far; returns the interrupt's id.

        Stop your own sending first: a chunk sent after it opens a new utterance.
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
        """What the service says, until the connection is closed, by whomever.

        The acknowledgements of chunks and of speak_end are left out: the protocol consumes them.
        For one reader; it must keep up, or the connection fails rather than grow or stall.

        Raises:
            ConnectionDead: chunks were sent, and nothing came back.
            EventsUnread: more than ``max_unread_events`` had not been read.
        """
        while True:
            while self._unread:
                yield self._unread.popleft()
            if self.close_code is not None:
                break
            self._news.clear()
            await self._news.wait()
        if self._failure is not None and not isinstance(self._failure, ConnectionClosed):
            raise self._failure

    # --- the end --------------------------------------------------------------------------

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Close the socket; done within ``timeout_s`` and a moment. May be called again.

        Does not stop the session: it stays billed until ``stop_session``.
        """
        self._end(CLOSE_NORMAL, "closed by us", ConnectionClosed("the connection was closed"))
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
                task.result()  # a fault of our own, which must not be lost

    # --- inside ---------------------------------------------------------------------------

    async def _connected(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not self._was_connected and self.close_code is None:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise NeverConnected(
                f"the socket opened, but the session is {self.phase.name} after {timeout_s:g} s"
            ) from None
        if not self._was_connected:
            raise NeverConnected(
                f"the session ended before it was connected (close code {self.close_code})"
            )
        # One that has ended since is handed out too: its events and close code say how.

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _send(self, frame: bytes) -> None:
        # What websockets' own send does, without its contexts and our timeout: they cost more than
        # a chunk's encoding and masking together, and hardly ever is there anything to wait for.
        written = self._write(frame)
        if written and self._socket.transport.get_write_buffer_size() <= WRITE_LIMIT_BYTES:
            return
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                if written:
                    await self._socket.drain()
                else:
                    await self._socket.send(frame, text=True)  # tells how the socket ended
        except TimeoutError:
            self._fail(ConnectionDead(SEND_TIMEOUT_S))
        except (ws_errors.ConnectionClosed, OSError):
            self._note_the_end()
        else:
            return
        self._check_usable()
        raise ConnectionLost(self.close_code or CLOSE_ABNORMAL, self.close_reason)

    def _write(self, frame: bytes) -> bool:
        """Hand the frame to the transport, whole and at once; False where the socket is closing.

        Nothing of websockets' can be in the middle of a frame: it writes in whole ones too, and
        only we send messages, none of them in fragments.
        """
        transport = self._socket.transport
        if self._socket.state is not State.OPEN or transport.is_closing():
            return False
        transport.write(masked_text(frame))
        return True

    async def _read(self) -> None:
        """Read until the socket ends. Runs from the first moment, so that no event is missed."""
        try:
            while True:
                frame = await self._socket.recv(decode=False)
                self.last_heard_s = self._clock()
                for event in self._protocol.receive(frame, self.last_heard_s):
                    self._keep(event)
                self._was_connected |= self.phase is SessionPhase.CONNECTED
        except ws_errors.ConnectionClosed as error:
            if error.rcvd is not None:
                self.last_heard_s = self._clock()  # a goodbye is a word, too
        finally:  # also after a fault of our own, or `events` would wait for ever
            self._note_the_end()

    def _keep(self, event: Event) -> None:
        if isinstance(event, AudioBufferAppended | AudioBufferCommitted) or self._failure:
            return
        if len(self._unread) >= self._max_unread_events:
            self._fail(EventsUnread(f"{len(self._unread)} events wait: iterate events()"))
            return
        self._unread.append(event)
        self._news.set()

    async def _watch(self) -> None:
        """Find out about a socket that is dead, or that outlives its session."""
        closed_since_s: float | None = None
        while self.close_code is None:
            await asyncio.sleep(min(WATCH_INTERVAL_S, self._dead_after_s / 4))
            now_s = self._clock()
            silent_s = self._protocol.silent_s(now_s)
            if silent_s >= self._dead_after_s:
                self._fail(ConnectionDead(silent_s))
            if self.phase is SessionPhase.CLOSED:
                closed_since_s = now_s if closed_since_s is None else closed_since_s
                if now_s - closed_since_s >= FAREWELL_S:
                    await self._socket.close()  # the reader notes it

    def _note_the_end(self) -> None:
        """The socket is closed; websockets knows how."""
        code, reason = self._socket.close_code, self._socket.close_reason
        self._end(CLOSE_ABNORMAL if code is None else code, reason or "")

    def _fail(self, failure: ConnectionFailed) -> None:
        """Give up on a socket that looks open, without waiting for it."""
        self._end(CLOSE_ABNORMAL, str(failure), failure)
        self._socket.transport.abort()

    def _end(self, code: int, reason: str, failure: ConnectionFailed | None = None) -> None:
        """Fix how the connection ended: the first to know counts."""
        if isinstance(failure, ConnectionClosed) and self._failure is None:
            self._failure = failure  # after our close, that is the better answer to commands
        if self.close_code is None:
            self._failure = failure
            self._protocol.closed(code, reason)
        self._news.set()


async def _open_socket(
    ws_url: SecretStr, open_timeout_s: float, ssl: tls.SSLContext | None
) -> ClientConnection:
    """The one place where websockets' opening errors become ours.

    Most of their texts can hold the URL, which is a secret: they are neither quoted nor chained.
    """
    failure: ConnectionFailed
    # An explicit None would forbid wss.
    security: dict[str, Any] = {} if ssl is None else {"ssl": ssl}
    try:
        return await connect(
            ws_url.get_secret_value(),
            compression=None,  # base64 PCM does not compress: 20 times the CPU for nothing
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
