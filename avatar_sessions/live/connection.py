"""The WebSocket to the session's owner, kept through breaks, takeovers and rotations.

Carries what the outbox has to send, and hands the owner's answers to the outbox and to readers of
events. It decides when to try the same owner again and when to ask for another one. Positions and
windows are the outbox's part, the messages' form and order are `protocol`'s.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from websockets import exceptions as ws_errors
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from avatar_sessions.access import SpeakerTicket
from avatar_sessions.contract.live_dialect import (
    MAX_FRAME_BYTES,
    SUBPROTOCOL,
    LiveInterrupted,
    LiveOver,
    LiveProgress,
    LiveReady,
    LiveState,
)
from avatar_sessions.errors import AccessFailed, NoAnswer, TooManyAwaited
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
from avatar_sessions.live.notifier import Notifier
from avatar_sessions.live.outbox import Outbox
from avatar_sessions.live.owners import Owners
from avatar_sessions.live.protocol import (
    DisconnectReason,
    LivePhase,
    NotUnderstood,
    OwnerEvent,
    SpeakerProtocol,
)
from liveavatar_lite.messages import AgentState, AgentStateUpdated, ErrorReported

OPEN_TIMEOUT_S: Final = 5.0
"""For the first connection with a ticket: the owner may be far away."""
QUICK_TRIES_S: Final = (0.0, 0.05, 0.1, 0.2)
"""Pauses before the attempts to reach the same owner again after a break."""
QUICK_S: Final = 0.5
"""Limit for all of these attempts. An owner that has not answered by then is reported as lost."""
STABLE_S: Final = 1.0
"""After a connection that lasted so long, attempts are counted from zero again."""
ROUND_PAUSES_S: Final = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Pauses before asking for the owner, by the number of rounds in a row; the last one repeats."""
LAST_OWNER_EVERY_S: Final = 2.0
"""How often the last owner is tried while the session does not name its owner: the network may have
cut off both."""
READY_TIMEOUT_S: Final = 10.0
LEAVING_TIMEOUT_S: Final = 3.0
"""How long a socket may stay open after the owner has announced the session's end."""
CLOSE_TIMEOUT_S: Final = 1.5
PING_INTERVAL_S: Final = 1.0
PING_TIMEOUT_S: Final = 1.5
"""An owner that has vanished, or is stopped, is noticed within two and a half seconds. A false
alarm costs a reconnection: the utterance is resumed where it was."""

_REFUSALS: Final = frozenset({401, 403, 404, 410})
_TRANSIENT: Final = (NoAnswer, AccessFailed, TooManyAwaited)

_LOGGER: Final = logging.getLogger(__name__)


class _WithoutFrames(logging.LoggerAdapter[logging.Logger]):
    """websockets' log without its DEBUG level, which would show the ticket and the audio."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)


_WIRE_LOGGER: Final = _WithoutFrames(logging.getLogger(f"{__name__}.wire"), {})


class LiveConnection:
    """Carries speech to the session's current owner.

    Attributes:
        is_ready: an owner has been reached at least once.
        problem: why the last attempt failed, in words without secrets.
        state: whether speech reaches LiveAvatar now.
        epoch: the owner's epoch; None before the first owner was reached.
        generation: number of the LiveAvatar session that the owner serves.
    """

    def __init__(
        self,
        owners: Owners,
        outbox: Outbox,
        feed: EventFeed,
        notifier: Notifier,
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
        self._notifier = notifier
        self._round = 0  # how often in a row the owner was asked for without a stable connection
        self._pose: str | None = None

    async def run(self) -> NoReturn:
        """Carry speech until the session is over, or the task is cancelled.

        Raises:
            SessionOver, SessionFailed, SessionNotFound: the session is over.
            AvatarSessionsError: no ticket can be had, now or ever; see `Owners.attach`.
        """
        ticket = await self._owners.attach()
        socket: ClientConnection | None = None
        while True:
            reason = await self._stay_with(ticket, socket)
            if reason is DisconnectReason.SESSION_OVER:
                error = await self._owners.ending()
                if error is not None:
                    raise error
            ticket, socket = await self._next_owner(ticket, reason)

    # ---------------------------------------------------------- finding the owner

    async def _stay_with(
        self, ticket: SpeakerTicket, socket: ClientConnection | None
    ) -> DisconnectReason:
        """Serve connections to one owner, through short breaks, until it cannot be reached."""
        loop = asyncio.get_running_loop()
        tries_s = iter(QUICK_TRIES_S)
        give_up_at: float | None = None
        timeout_s = OPEN_TIMEOUT_S
        while True:
            opened = socket or await self._open(ticket, timeout_s)
            socket = None
            if isinstance(opened, DisconnectReason):
                reason = opened
            else:
                began_at = loop.time()
                reason = await self._serve(opened)
                if loop.time() - began_at >= STABLE_S:
                    self._round, tries_s, give_up_at = 0, iter(QUICK_TRIES_S), None
            if reason is not DisconnectReason.BROKEN:
                return reason
            if not _is_valid(ticket):
                return DisconnectReason.NOT_OWNER
            pause_s = next(tries_s, None)
            give_up_at = give_up_at or loop.time() + QUICK_S
            if pause_s is None or loop.time() + pause_s >= give_up_at:
                return DisconnectReason.BROKEN
            await asyncio.sleep(pause_s)
            timeout_s = max(0.1, give_up_at - loop.time())

    async def _next_owner(
        self, last: SpeakerTicket, reason: DisconnectReason
    ) -> tuple[SpeakerTicket, ClientConnection | None]:
        """A ticket for the session's owner; or the last owner's, connected, if it is back first."""
        asking = asyncio.create_task(self._ask(last, reason), name="live-speech-attach")
        try_last = reason is DisconnectReason.BROKEN
        try:
            while True:
                every_s = LAST_OWNER_EVERY_S if try_last else None
                await asyncio.wait({asking}, timeout=every_s)
                if asking.done():
                    return asking.result(), None
                opened = await self._open(last, QUICK_S) if _is_valid(last) else reason
                if not isinstance(opened, DisconnectReason):
                    return last, opened
                try_last = opened is DisconnectReason.BROKEN and _is_valid(last)
        finally:
            asking.cancel()
            await asyncio.wait({asking})

    async def _ask(self, last: SpeakerTicket, reason: DisconnectReason) -> SpeakerTicket:
        await self._pause()
        if reason is DisconnectReason.BROKEN:
            try:
                await self._owners.lost(last.epoch)
            except _TRANSIENT as error:
                _LOGGER.info("the lost owner could not be reported: %s", error)
        while True:
            try:
                return await self._owners.attach()
            except _TRANSIENT as error:
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
        """Connect; every opening error of websockets is translated here."""
        try:
            socket = await connect(
                ticket.ingress_url,
                additional_headers={"Authorization": f"Bearer {ticket.ticket}"},
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,  # PCM does not compress
                open_timeout=timeout_s,
                ping_interval=None,  # `_watch` pings, and does not await a close frame
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=MAX_FRAME_BYTES,
                proxy=None,  # owners are neighbours
                logger=_WIRE_LOGGER,
                **self._security,
            )
        except ws_errors.InvalidStatus as error:
            status = error.response.status_code
            self.problem = f"the ingress refused the connection with HTTP {status}"
            return DisconnectReason.NOT_OWNER if status in _REFUSALS else DisconnectReason.BROKEN
        except TimeoutError:
            self.problem = f"the ingress did not answer within {timeout_s:.3g} s"
            return DisconnectReason.BROKEN
        except (OSError, ws_errors.WebSocketException) as error:
            self.problem = f"the ingress cannot be reached: {error}"
            return DisconnectReason.BROKEN
        if socket.subprotocol != SUBPROTOCOL:
            self.problem = f"the server there does not speak {SUBPROTOCOL}"
            await socket.close()
            return DisconnectReason.BROKEN
        return socket

    # ------------------------------------------------------------ one connection

    async def _serve(self, socket: ClientConnection) -> DisconnectReason:
        """Send and receive on one connection until it ends."""
        protocol = SpeakerProtocol()
        reader = asyncio.create_task(self._read(socket, protocol), name="live-speech-reader")
        sender = asyncio.create_task(self._send(socket, protocol), name="live-speech-sender")
        watcher = asyncio.create_task(self._watch(socket), name="live-speech-watcher")
        try:
            await asyncio.wait({reader, sender}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sender, watcher):
                task.cancel()
            await asyncio.wait({sender, watcher})
            try:
                await socket.close()  # within CLOSE_TIMEOUT_S
            finally:
                # What arrived before the end is still read.
                await asyncio.wait({reader}, timeout=CLOSE_TIMEOUT_S)
                reader.cancel()
                socket.transport.abort()
                await asyncio.wait({reader})
                self._outbox.disconnected()
                self._notifier.notify()
        self._set_state("recovering")
        for task in (reader, sender, watcher):
            if not task.cancelled():
                task.result()  # a bug here must not be lost
        reason = protocol.closed(socket.close_code)
        if reason is not DisconnectReason.SESSION_OVER:
            self.problem = f"the ingress closed the connection with {socket.close_code}"
            _LOGGER.info("the connection to the session's owner ended with %s", socket.close_code)
        return reason

    async def _send(self, socket: ClientConnection, protocol: SpeakerProtocol) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + READY_TIMEOUT_S
        while protocol.phase is LivePhase.OPENING:
            if loop.time() >= give_up_at:
                _LOGGER.warning("the ingress did not send live.ready in %g s", READY_TIMEOUT_S)
                return
            await self._notifier.wait(give_up_at - loop.time())
        try:
            while protocol.phase is LivePhase.READY:
                message = self._outbox.next_message(loop.time())
                if message is None:
                    due_at_s = self._outbox.due_at_s
                    await self._notifier.wait(None if due_at_s is None else due_at_s - loop.time())
                    continue
                frame = protocol.send(message)
                await socket.send(frame)
                if isinstance(frame, str):
                    self._notifier.notify()
            await socket.wait_closed()  # the owner has announced the end: the reader waits for it
        except TimeoutError as error:
            _LOGGER.warning("the connection to the session's owner is given up: %s", error)
        except ws_errors.ConnectionClosed:
            pass  # the reader sees it, too

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
            pass  # the reader sees it, too

    async def _read(self, socket: ClientConnection, protocol: SpeakerProtocol) -> None:
        try:
            while True:
                leaving = protocol.phase is LivePhase.LEAVING
                async with asyncio.timeout(LEAVING_TIMEOUT_S if leaving else None):
                    frame = await socket.recv()
                for event in protocol.receive(frame):
                    self._handle(event)
                self._notifier.notify()
        except (TimeoutError, ws_errors.ConnectionClosed):
            pass

    # ------------------------------------------------------ events from the owner

    def _handle(self, event: OwnerEvent) -> None:
        now_s = asyncio.get_running_loop().time()
        match event:
            case LiveProgress():
                self._outbox.progress(event, now_s)
            case LiveReady():
                self._ready(event)
            case LiveState():
                self._set_state(event.state)
            case LiveOver():
                self._outbox.over(event.utterance, now_s)
            case LiveInterrupted():
                self._outbox.interrupted(event)
                self._feed.publish(SpeechInterrupted(event.utterance_id, event.heard_ms))
            case AgentStateUpdated():
                self._set_pose(event.new_state)
            case ErrorReported():
                _LOGGER.warning(
                    "the session's owner reports an error: %s (%s)", event.message, event.type
                )
            case NotUnderstood():
                _LOGGER.warning(
                    "a message of the session's owner is not understood, perhaps of another"
                    " release: %s",
                    event.problem,
                )

    def _ready(self, ready: LiveReady) -> None:
        self._outbox.connected(ready.epoch, ready.window_bytes, ready.generation)
        before = (self.epoch, self.generation)
        self.epoch, self.generation = ready.epoch, ready.generation
        if self.is_ready and before != (ready.epoch, ready.generation):
            self._feed.publish(SessionMoved(ready.epoch, ready.generation))
        self.is_ready = True

    def _set_pose(self, pose: str) -> None:
        if pose == self._pose:
            return
        self._pose = pose
        if pose == AgentState.TALKING:
            first = self._outbox.first
            self._feed.publish(AvatarTalking(None if first is None else first.id))
        elif pose == AgentState.LISTENING:
            self._feed.publish(AvatarListening())
        elif pose == AgentState.IDLE:
            self._feed.publish(AvatarIdle())

    def _set_state(self, state: SpeechState) -> None:
        if state != self.state:
            self.state = state
            self._feed.publish(SpeechStateChanged(state))


def _is_valid(ticket: SpeakerTicket) -> bool:
    return ticket.expires_at > datetime.now(UTC)
