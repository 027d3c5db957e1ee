"""The WebSocket to the session's owner, kept through breaks, takeovers and rotations.

It carries what the outbox holds and tells outbox and readers what the owner says. It decides when
to try the same owner again and when to ask for another; positions and windows are the outbox's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl as tls
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, NoReturn

from pydantic import ValidationError
from websockets import exceptions as ws_errors
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from avatar_sessions.access import SpeakerTicket
from avatar_sessions.contract.live_dialect import (
    MAX_FRAME_BYTES,
    OWNER_MESSAGE,
    SUBPROTOCOL,
    CloseCode,
    LiveInterrupted,
    LiveOver,
    LiveProgress,
    LiveReady,
    LiveState,
)
from avatar_sessions.contract.messages import problems_of
from avatar_sessions.errors import (
    AccessFailed,
    NoAnswer,
    TooManyAwaited,
)
from avatar_sessions.live.events import (
    AvatarIdle,
    AvatarListening,
    AvatarTalking,
    EventFeed,
    SessionMoved,
    SpeechInterrupted,
    SpeechState,
    SpeechStateChanged,
)
from avatar_sessions.live.outbox import Outbox
from avatar_sessions.live.owners import Owners
from liveavatar_lite.messages import (
    AgentState,
    AgentStateUpdated,
    ErrorReported,
    ProviderState,
    SessionStateUpdated,
    decode_event,
)

OPEN_TIMEOUT_S: Final = 5.0
"""For the first connection with a ticket: the owner may be far away."""
QUICK_TRIES_S: Final = (0.0, 0.05, 0.1, 0.2)
"""Pauses before the tries to get the same owner again after a break."""
QUICK_S: Final = 0.5
"""All of them together. An owner that does not answer by then is reported as lost."""
STABLE_S: Final = 1.0
"""A connection that lasted so long was a good one: after it the tries are counted anew."""
ROUND_PAUSES_S: Final = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Before asking who the owner is, each time in a row; then every time the last."""
LAST_OWNER_EVERY_S: Final = 2.0
"""While nobody says who the owner is, the last one is tried: the break may have cut off both."""
READY_TIMEOUT_S: Final = 10.0
FAREWELL_S: Final = 3.0
"""How long a socket may stay open after the owner called the session closed."""
CLOSE_TIMEOUT_S: Final = 1.5
PING_INTERVAL_S: Final = 1.0
PING_TIMEOUT_S: Final = 1.5
"""An owner that vanished without a word, or is stopped, is noticed in two and a half seconds. A
false alarm costs a connection made again: the utterance goes on where it was."""

_REFUSALS: Final = frozenset({401, 403, 404, 410})
_PASSING: Final = (NoAnswer, AccessFailed, TooManyAwaited)
_CLOSED_STATES: Final = frozenset(
    {ProviderState.CLOSING, ProviderState.CLOSED, ProviderState.DISCONNECTED}
)

_LOGGER: Final = logging.getLogger(__name__)


class _WithoutFrames(logging.LoggerAdapter[logging.Logger]):
    """websockets' log without its DEBUG level, which shows the ticket and the audio."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)


_WIRE_LOGGER: Final = _WithoutFrames(logging.getLogger(f"{__name__}.wire"), {})


class DisconnectReason(Enum):
    """How a connection, or the attempt to make one, ended."""

    BROKEN = "broken"  # without a word, or by a fault: the owner may be there still
    NOT_OURS = "not ours"  # this process is not the owner (any more), or the ticket is not good
    SESSION_OVER = "session over"


class Notifier:
    """Wakes everybody who waits for something to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event.clear()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the next ring, or so long. Look again in either case."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            pass


class LiveConnection:
    """Speech's way to the session's owner, whoever that is.

    Attributes:
        is_ready: an owner was there once.
        problem: why there was none at the last try, in words without secrets.
        state: whether speech goes on to LiveAvatar now.
        epoch: the owner's; None until the first is there.
        generation: number of the LiveAvatar session that it serves.
    """

    def __init__(
        self,
        owners: Owners,
        outbox: Outbox,
        feed: EventFeed,
        bell: Notifier,
        *,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        # An explicit None would forbid wss.
        self._security: dict[str, Any] = {} if ssl is None else {"ssl": ssl}
        self.is_ready = False
        self.problem = "the session's owner is not known yet"
        self.state: SpeechState = "recovering"
        self.epoch: tuple[int, int] | None = None
        self.generation = 0
        self._owners = owners
        self._outbox = outbox
        self._feed = feed
        self._bell = bell
        self._round = 0  # how often in a row the owner was asked for without a good connection
        self._pose: str | None = None
        # Of the connection that is there now:
        self._has_ready = False
        self._session_is_closed = False

    async def run(self) -> NoReturn:
        """Carry speech until the session is over, or this is cancelled.

        Raises:
            SessionOver, SessionFailed, SessionNotFound: it is over.
            AvatarSessionsError: no ticket can be had, now or for ever; see `Owners.attach`.
        """
        ticket = await self._owners.attach()
        socket: ClientConnection | None = None
        while True:
            farewell = await self._stay_with(ticket, socket)
            if farewell is DisconnectReason.SESSION_OVER:
                error = await self._owners.ending()
                if error is not None:
                    raise error
            ticket, socket = await self._next_owner(ticket, farewell)

    # -------------------------------------------------------- whom to speak with

    async def _stay_with(
        self, ticket: SpeakerTicket, socket: ClientConnection | None
    ) -> DisconnectReason:
        """Speak with one owner, through short breaks, until it cannot be had any more."""
        loop = asyncio.get_running_loop()
        tries_s = iter(QUICK_TRIES_S)
        give_up_at: float | None = None
        timeout_s = OPEN_TIMEOUT_S
        while True:
            opened = socket or await self._open(ticket, timeout_s)
            socket = None
            if isinstance(opened, DisconnectReason):
                farewell = opened
            else:
                began_at = loop.time()
                farewell = await self._serve(opened)
                if loop.time() - began_at >= STABLE_S:
                    self._round, tries_s, give_up_at = 0, iter(QUICK_TRIES_S), None
            if farewell is not DisconnectReason.BROKEN:
                return farewell
            if not _is_valid(ticket):
                return DisconnectReason.NOT_OURS
            pause_s = next(tries_s, None)
            give_up_at = give_up_at or loop.time() + QUICK_S
            if pause_s is None or loop.time() + pause_s >= give_up_at:
                return DisconnectReason.BROKEN
            await asyncio.sleep(pause_s)
            timeout_s = max(0.1, give_up_at - loop.time())

    async def _next_owner(
        self, last: SpeakerTicket, farewell: DisconnectReason
    ) -> tuple[SpeakerTicket, ClientConnection | None]:
        """A ticket for whoever owns the session now, or the last owner, if it is back first."""
        asking = asyncio.create_task(self._ask(last, farewell), name="live-speech-attach")
        try_last = farewell is DisconnectReason.BROKEN
        try:
            while True:
                every_s = LAST_OWNER_EVERY_S if try_last else None
                await asyncio.wait({asking}, timeout=every_s)
                if asking.done():
                    return asking.result(), None
                opened = await self._open(last, QUICK_S) if _is_valid(last) else farewell
                if not isinstance(opened, DisconnectReason):
                    return last, opened
                try_last = opened is DisconnectReason.BROKEN and _is_valid(last)
        finally:
            asking.cancel()
            await asyncio.wait({asking})

    async def _ask(self, last: SpeakerTicket, farewell: DisconnectReason) -> SpeakerTicket:
        await self._pause()
        if farewell is DisconnectReason.BROKEN:
            try:
                await self._owners.lost(last.epoch)
            except _PASSING as error:
                _LOGGER.info("could not report a lost owner: %s", error)
        while True:
            try:
                return await self._owners.attach()
            except _PASSING as error:
                self.problem = str(error)
                _LOGGER.info("no access to the session's owner yet: %s", error)
            await self._pause()

    async def _pause(self) -> None:
        pause_s = ROUND_PAUSES_S[min(self._round, len(ROUND_PAUSES_S) - 1)]
        self._round += 1
        await asyncio.sleep(pause_s)

    async def _open(
        self, ticket: SpeakerTicket, timeout_s: float
    ) -> ClientConnection | DisconnectReason:
        """The one place where websockets' opening errors are understood."""
        try:
            socket = await connect(
                ticket.ingress_url,
                additional_headers={"Authorization": f"Bearer {ticket.ticket}"},
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,  # PCM does not compress: CPU for nothing
                open_timeout=timeout_s,
                ping_interval=None,  # `_watch` does, and does not wait for a dead one's goodbye
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=MAX_FRAME_BYTES,
                proxy=None,  # owners are neighbours
                logger=_WIRE_LOGGER,
                **self._security,
            )
        except ws_errors.InvalidStatus as error:
            status = error.response.status_code
            self.problem = f"the ingress refused the connection with HTTP {status}"
            return DisconnectReason.NOT_OURS if status in _REFUSALS else DisconnectReason.BROKEN
        except TimeoutError:
            self.problem = f"the ingress did not answer within {timeout_s:.3g} s"
            return DisconnectReason.BROKEN
        except (OSError, ws_errors.WebSocketException) as error:
            self.problem = f"the ingress cannot be reached: {error}"
            return DisconnectReason.BROKEN
        if socket.subprotocol != SUBPROTOCOL:
            self.problem = f"what answers there does not speak {SUBPROTOCOL}"
            await socket.close()
            return DisconnectReason.BROKEN
        return socket

    # ------------------------------------------------------------ one connection

    async def _serve(self, socket: ClientConnection) -> DisconnectReason:
        """Speak and listen on one connection until it ends."""
        self._has_ready = self._session_is_closed = False
        reader = asyncio.create_task(self._read(socket), name="live-speech-reader")
        sender = asyncio.create_task(self._send(socket), name="live-speech-sender")
        watcher = asyncio.create_task(self._watch(socket), name="live-speech-watcher")
        try:
            await asyncio.wait({reader, sender}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sender, watcher):
                task.cancel()
            await asyncio.wait({sender, watcher})
            try:
                await socket.close()  # within CLOSE_TIMEOUT_S, at once if it is closed
            finally:
                # What came before the end is heard still.
                await asyncio.wait({reader}, timeout=CLOSE_TIMEOUT_S)
                reader.cancel()
                socket.transport.abort()
                await asyncio.wait({reader})
                self._outbox.broke()
                self._bell.ring()
        self._set_state("recovering")
        for task in (reader, sender, watcher):
            if not task.cancelled():
                task.result()  # a fault of our own, which must not be lost
        if self._session_is_closed:
            return DisconnectReason.SESSION_OVER
        self.problem = f"the ingress closed the connection with {socket.close_code}"
        _LOGGER.info("the connection to the session's owner ended with %s", socket.close_code)
        return (
            DisconnectReason.NOT_OURS
            if socket.close_code == CloseCode.MOVED
            else DisconnectReason.BROKEN
        )

    async def _send(self, socket: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + READY_TIMEOUT_S
        while not self._has_ready:
            if loop.time() >= give_up_at:
                _LOGGER.warning("the ingress did not say live.ready in %g s", READY_TIMEOUT_S)
                return
            await self._bell.wait(give_up_at - loop.time())
        try:
            while True:
                frame = self._outbox.next_frame(loop.time())
                if frame is None:
                    due_at_s = self._outbox.due_at_s
                    await self._bell.wait(None if due_at_s is None else due_at_s - loop.time())
                    continue
                await socket.send(frame)
                if isinstance(frame, str):
                    self._bell.ring()
        except TimeoutError as error:
            _LOGGER.warning("the connection to the session's owner is given up: %s", error)
        except ws_errors.ConnectionClosed:
            pass  # the reader knows how

    async def _watch(self, socket: ClientConnection) -> None:
        """Cut the connection to an owner that does not answer pings."""
        try:
            while True:
                await asyncio.sleep(PING_INTERVAL_S)
                pong = await socket.ping()
                async with asyncio.timeout(PING_TIMEOUT_S):
                    await pong
        except TimeoutError:
            _LOGGER.warning("the session's owner has not answered for %g s", PING_TIMEOUT_S)
            socket.transport.abort()
        except ws_errors.ConnectionClosed:
            pass  # the reader knows how

    async def _read(self, socket: ClientConnection) -> None:
        try:
            while True:
                async with asyncio.timeout(FAREWELL_S if self._session_is_closed else None):
                    frame = await socket.recv()
                if isinstance(frame, str):
                    self._hear(frame)
                    self._bell.ring()
        except (TimeoutError, ws_errors.ConnectionClosed):
            pass

    # ------------------------------------------------------------ what is heard

    def _hear(self, frame: str) -> None:
        try:
            parsed = json.loads(frame)
        except (ValueError, RecursionError):
            parsed = None
        kind = parsed.get("type") if isinstance(parsed, dict) else None
        if not isinstance(kind, str):
            _LOGGER.warning("the session's owner said something that is not a message")
        elif kind.startswith("live."):
            self._hear_owner(parsed)
        else:
            self._hear_avatar(frame)

    def _hear_owner(self, parsed: Any) -> None:
        now_s = asyncio.get_running_loop().time()
        try:
            message = OWNER_MESSAGE.validate_python(parsed)
        except ValidationError as error:
            _LOGGER.warning("a message of another release: %s", problems_of(error))
            return
        match message:
            case LiveReady():
                self._ready(message)
            case LiveState():
                self._set_state(message.state)
            case LiveProgress():
                self._outbox.progress(message, now_s)
            case LiveOver():
                self._outbox.over(message.utterance, now_s)
            case LiveInterrupted():
                self._outbox.interrupted(message)
                self._feed.tell(SpeechInterrupted(message.utterance_id, message.heard_ms))

    def _ready(self, ready: LiveReady) -> None:
        self._outbox.connected(ready.epoch, ready.window_bytes, ready.generation)
        before = (self.epoch, self.generation)
        self.epoch, self.generation = ready.epoch, ready.generation
        if self.is_ready and before != (ready.epoch, ready.generation):
            self._feed.tell(SessionMoved(ready.epoch, ready.generation))
        self._has_ready = self.is_ready = True

    def _hear_avatar(self, frame: str) -> None:
        event = decode_event(frame)
        if isinstance(event, SessionStateUpdated) and event.state in _CLOSED_STATES:
            self._session_is_closed = True
        elif isinstance(event, ErrorReported):
            _LOGGER.warning("the session's owner objects: %s (%s)", event.message, event.type)
        elif isinstance(event, AgentStateUpdated) and event.new_state != self._pose:
            self._pose = event.new_state
            if self._pose == AgentState.TALKING:
                first = self._outbox.first
                self._feed.tell(AvatarTalking(None if first is None else first.id))
            elif self._pose == AgentState.LISTENING:
                self._feed.tell(AvatarListening())
            elif self._pose == AgentState.IDLE:
                self._feed.tell(AvatarIdle())

    def _set_state(self, state: SpeechState) -> None:
        if state != self.state:
            self.state = state
            self._feed.tell(SpeechStateChanged(state))


def _is_valid(ticket: SpeakerTicket) -> bool:
    return ticket.expires_at > datetime.now(UTC)
