"""A session as its owner holds it: the one WebSocket, the one mouth, one order of things.

Commands and speech meet here and nowhere else. Knows LITE, nothing of Temporal.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pydantic import SecretStr

from avatar_sessions.contract.activities import ClipSpoken, Epoch, StreamEnd, StreamResult
from avatar_sessions.contract.messages import UtteranceReport
from avatar_sessions.contract.states import CommandOutcome, Pose, UtteranceOutcome
from liveavatar_lite import (
    AudioBufferCleared,
    ConnectionFailed,
    ErrorReported,
    Event,
    LiteConnection,
    LiteError,
    PoseChanged,
    UtteranceEnded,
    UtteranceStarted,
)
from owner.clip_queue import ClipJob, ClipQueue, Progress
from owner.live_queue import LiveQueue
from owner.observer import Observer
from owner.playout import Playout
from owner.utterance import Utterance

logger = logging.getLogger(__name__)

RECONNECT_PAUSES_S: Final = (0.1, 0.25, 0.5, 1.0)
"""Before the next tries to open a socket; then each second. LiveAvatar's own demo waits up to
eight, and steps over the network's return."""
CONNECT_PATIENCE_S: Final = 20.0
"""For so long one is tried in a row; then somebody else may have more luck."""
BOOKS_TIMEOUT_S: Final = 2.0
"""How long LiveAvatar's books may be asked after a socket was lost: speech waits meanwhile."""


class OwnedState(Enum):
    """The life of the owner's connection."""

    CONNECTING = auto()
    READY = auto()
    RECONNECTING = auto()
    LETTING_GO = auto()  # nothing is fed any more; the socket waits for LiveAvatar to close it
    CLOSED = auto()


TRANSITIONS: Final = {
    OwnedState.CONNECTING: {OwnedState.READY, OwnedState.LETTING_GO, OwnedState.CLOSED},
    OwnedState.READY: {OwnedState.RECONNECTING, OwnedState.LETTING_GO, OwnedState.CLOSED},
    OwnedState.RECONNECTING: {OwnedState.READY, OwnedState.LETTING_GO, OwnedState.CLOSED},
    OwnedState.LETTING_GO: {OwnedState.CLOSED},
    OwnedState.CLOSED: set[OwnedState](),
}


class OwnerNotReady(Exception):
    """The session has no socket at this moment, or is being let go."""


@dataclass(frozen=True)
class ProviderEnd:
    """LiveAvatar's books say that the session is over."""

    reason: str | None


@dataclass(frozen=True)
class OwnerLimits:
    """How an owner holds its sessions."""

    max_lead_s: float = 2.0
    """How far ahead of what is heard speech is sent: an interrupt cuts what is spoken."""
    keep_alive_s: float = 60.0
    connect_timeout_s: float = 15.0
    """Until the first socket is connected: the avatar joins its room meanwhile."""
    reconnect_timeout_s: float = 5.0
    """The same for a later one: the avatar is there."""
    dead_after_s: float = 4.0
    """Chunks sent and nothing back for so long: the socket is dead, found in less than 5 s."""
    release_timeout_s: float = 3.0
    """How long a released socket waits for LiveAvatar to close it."""


async def _always() -> bool:
    return True


class OwnedSession:
    """One session of this process.

    Attributes:
        epoch: who serves it: the attempt of `stream_audio`. Only grows.
        supervised: False while it is not certain that no other owner has taken over.
    """

    def __init__(
        self,
        *,
        key: str,
        epoch: Epoch,
        ws_url: SecretStr,
        limits: OwnerLimits,
        on_ready: Callable[[int], None],
        on_lost: Callable[[], None],
        on_line: Callable[[UtteranceReport, bool], None],
        on_pose: Callable[[Pose], None],
        provider_end: Callable[[], Awaitable[ProviderEnd | None]],
        may_reconnect: Callable[[], Awaitable[bool]] = _always,
        owner: str | None = None,
        generation: int = 0,
    ) -> None:
        self.key = key
        self.epoch = epoch
        self.generation = generation
        self.supervised = True
        self.state = OwnedState.CONNECTING
        self.connects = 0
        self.spoken_ms = 0
        self._active_at_s = time.monotonic()
        self._owner = owner
        self._ws_url = ws_url
        self._limits = limits
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._on_line = on_line
        self._on_pose = on_pose
        self._provider_end = provider_end
        self._may_reconnect = may_reconnect
        self._observers: set[Observer] = set()
        self._playout = Playout(self)
        self.live = LiveQueue(
            self._playout,
            max_lead_s=limits.max_lead_s,
            line_of=self._line_of,
            on_over=self._live_over,
            rest=self._rest,
        )
        self.clips = ClipQueue(
            self._playout,
            max_lead_s=limits.max_lead_s,
            generation=generation,
            line_of=self._line_of,
            rest=self._rest,
            moving=lambda: self._moving,
        )
        self._connection: LiteConnection | None = None
        self._interrupt_owed: asyncio.Future[None] | None = None
        self._pose = Pose.IDLE
        self._pose_on_wire = Pose.IDLE
        self._told_pose: str | None = None
        self._released = asyncio.Event()
        self._lost_at_s: float | None = None
        self._moving = False

    # ------------------------------------------------------------ connection

    async def run(self) -> StreamResult:
        """Hold the socket until the session is let go, LiveAvatar ends it, or another owner has it.

        Raises:
            ConnectionFailed: the socket could not be had (again).
        """
        while not self._is_closed:
            connection = await self._connect()
            if self._is_closed:
                # A newer socket puts out an older one, and the next owner may have one by now.
                if connection is not None:
                    await connection.close()
                break
            if connection is None:
                return await self._result(StreamEnd.PROVIDER_CLOSED, None)
            await self._ready(connection)
            await self._attend(connection)
            if self.state in (OwnedState.LETTING_GO, OwnedState.CLOSED):
                return await self._result(StreamEnd.RELEASED, connection)
            was_ready = self.state is OwnedState.READY
            if was_ready:
                self._to(OwnedState.RECONNECTING)
                self._lost_at_s = time.monotonic()
                for observer in list(self._observers):
                    observer.on_ready_changed(False)
            logger.warning("socket lost: code %s", connection.close_code)
            if await self._ended_by_provider() is not None:
                return await self._result(StreamEnd.PROVIDER_CLOSED, connection)
            # A newer socket puts out an older one: whoever was replaced must not come back.
            if not await self._may_reconnect():
                return await self._result(StreamEnd.REPLACED, connection)
            if was_ready:
                self._on_lost()
        return await self._result(StreamEnd.RELEASED, None)

    async def _ended_by_provider(self) -> ProviderEnd | None:
        """What LiveAvatar's books say; None also if they cannot be read now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BOOKS_TIMEOUT_S):
                return await self._provider_end()
        return None

    async def _connect(self) -> LiteConnection | None:
        """Open the socket, a few times if need be; None when LiveAvatar has ended the session.

        Also None when it was closed by us meanwhile.
        """
        limits = self._limits
        first = self.connects == 0
        give_up_s = time.monotonic() + CONNECT_PATIENCE_S
        for tries in itertools.count():
            try:
                return await LiteConnection.open(
                    self._ws_url,
                    open_timeout_s=limits.reconnect_timeout_s,
                    connected_timeout_s=(
                        limits.connect_timeout_s if first else limits.reconnect_timeout_s
                    ),
                    dead_after_s=limits.dead_after_s,
                )
            except ConnectionFailed as error:
                logger.warning("connecting failed, try %d: %s", tries + 1, error)
                if self._is_closed or await self._ended_by_provider() is not None:
                    return None
                if time.monotonic() >= give_up_s:
                    raise
            await asyncio.sleep(RECONNECT_PAUSES_S[min(tries, len(RECONNECT_PAUSES_S) - 1)])
            if self._is_closed:
                return None
        raise AssertionError("unreachable")

    async def _ready(self, connection: LiteConnection) -> None:
        self._connection = connection
        self.connects += 1
        self._pose_on_wire = Pose.IDLE
        self._sent()
        try:
            await self._playout.on_connected(connection, interrupt=self._interrupt_owed is not None)
        except LiteError as error:
            logger.warning("the new socket is gone again: %s", error)  # the reader tells
            return
        owed, self._interrupt_owed = self._interrupt_owed, None
        if owed is not None and not owed.done():
            owed.set_result(None)
        if self.state is not OwnedState.LETTING_GO:
            self._to(OwnedState.READY)
            self._on_ready(self._gap_ms())
            for observer in list(self._observers):
                observer.on_ready_changed(True)

    def _gap_ms(self) -> int:
        """How long there was no socket; at least 1 after a loss."""
        if self._lost_at_s is None:
            return 0
        gap_s, self._lost_at_s = time.monotonic() - self._lost_at_s, None
        return max(1, round(gap_s * 1000))

    async def _attend(self, connection: LiteConnection) -> None:
        """Follow what LiveAvatar says until the socket is closed."""
        chores = [
            asyncio.create_task(self._keep_alive_at_times(connection), name="keep-alive"),
            asyncio.create_task(self._let_go(connection), name="let-go"),
        ]
        try:
            await self._restore_pose()
            async for event in connection.events():
                self._follow(event)
        except LiteError as error:
            logger.warning("connection: %s", error)
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.wait(chores)
            self._connection = None
            self._playout.on_disconnected(connection)
            await connection.close()

    async def _result(self, end: StreamEnd, connection: LiteConnection | None) -> StreamResult:
        told = await self._ended_by_provider() if end is StreamEnd.PROVIDER_CLOSED else None
        return StreamResult(
            end=end,
            close_code=connection.close_code if connection else None,
            provider_end_reason=told.reason if told else None,
            connects=self.connects,
        )

    async def _keep_alive_at_times(self, connection: LiteConnection) -> None:
        """LiveAvatar ends a session after five minutes without a command; pings do not count."""
        while True:
            due_s = self._playout.last_sent_s + self._limits.keep_alive_s - time.monotonic()
            if due_s > 0:
                await asyncio.sleep(due_s)
                continue
            try:
                async with self._playout.send_lock:
                    await connection.keep_alive()
                    self._sent()
            except LiteError:
                return  # the reader tells

    async def _let_go(self, connection: LiteConnection) -> None:
        """Once released: LiveAvatar closes the socket after the stop; if not, we do."""
        await self._released.wait()
        await asyncio.sleep(self._limits.release_timeout_s)
        await connection.close()

    async def close(self, *, moving: bool = False, cut: bool = False) -> None:
        """Close the socket and end what is being said. Bounded; may be called twice.

        Args:
            moving: another owner goes on with the session.
            cut: what LiveAvatar has of it is not to be said.
        """
        if self.state is OwnedState.CLOSED:
            return
        cut = cut and self._playout.playing is not None
        over = self.state is OwnedState.LETTING_GO or not moving
        self._moving = not over
        self._playout.sync_clock()
        for utterance in self._playout.utterances:
            self.on_progress(utterance)  # from where the next owner goes on
        for observer in list(self._observers):
            observer.on_released(over=over)
        outcome = (
            UtteranceOutcome.CANCELLED
            if self.state is OwnedState.LETTING_GO
            else UtteranceOutcome.LOST
        )
        self._to(OwnedState.CLOSED)
        if self._interrupt_owed is not None:
            self._interrupt_owed.cancel()
        self._playout.close(outcome)
        if cut and self._connection is not None:
            with contextlib.suppress(LiteError):  # then it is gone anyhow
                await self._connection.interrupt()
        await self.clips.close()
        await self.live.close()
        if self._connection is not None:
            await self._connection.close()

    @property
    def _is_closed(self) -> bool:
        return self.state is OwnedState.CLOSED

    @property
    def is_open(self) -> bool:
        """Whether it is neither closed nor about to be."""
        return self.state not in (OwnedState.LETTING_GO, OwnedState.CLOSED)

    def _to(self, wanted: OwnedState) -> None:
        if wanted not in TRANSITIONS[self.state]:
            raise RuntimeError(f"an owned session cannot go from {self.state} to {wanted}")
        self.state = wanted

    def _sent(self) -> None:
        self._playout.last_sent_s = time.monotonic()

    @property
    def speaking(self) -> str | None:
        """The id of the utterance being spoken."""
        said = self._playout.playing
        return None if said is None else said.id

    def add_observer(self, observer: Observer) -> None:
        """Tell this one what happens, until `remove_observer`."""
        self._observers.add(observer)

    def remove_observer(self, observer: Observer) -> None:
        """Tell it no more."""
        self._observers.discard(observer)

    def disconnect_observers(self) -> None:
        """Have them ask for the owner: nothing can be said here, and another one may be there."""
        for observer in list(self._observers):
            observer.on_released(over=False)

    @property
    def observer_count(self) -> int:
        """How many speakers are connected."""
        return len(self._observers)

    def _follow(self, event: Event) -> None:
        match event:
            case UtteranceStarted(utterance_id=about):
                self._playout.on_playback_started(about)
            case UtteranceEnded(utterance_id=about, interrupted=interrupted):
                self._playout.on_playback_finished(about, interrupted=interrupted)
            case PoseChanged(state=pose):
                previous, self._told_pose = self._told_pose, pose
                for observer in list(self._observers):
                    observer.on_pose_changed(previous, pose)
            case AudioBufferCleared():
                self._playout.on_buffer_cleared()
                for observer in list(self._observers):
                    observer.on_buffer_cleared(event.source_event_id)
            case ErrorReported():
                logger.warning("LiveAvatar reports %s: %s", event.type, event.message)
                for observer in list(self._observers):
                    observer.on_error(event)
            case _:
                pass

    # --------------------------------------------------------------- speech

    async def speak(self, clip: ClipJob, progress: Progress | None = None) -> ClipSpoken:
        """Say a clip after what is being said, and tell what was heard; see `ClipQueue.play`.

        Raises:
            NotReady: there is no socket now; nothing was said.
        """
        known = self.clips.knows(clip.utterance_id)
        if not known:
            self._usable()
        said = await self.clips.play(clip, progress)
        if not known:
            self.spoken_ms += said.report.heard_ms
        return said

    def _line_of(self, utterance: Utterance) -> UtteranceReport:
        return utterance.report(owner=self._owner, generation=self.generation)

    def touch(self) -> None:
        """Somebody has asked something in band."""
        self._active_at_s = time.monotonic()

    def idle_s(self) -> float:
        """For how long nobody has asked anything in band; 0 while something is said."""
        if self._playout.utterances:
            self.touch()
        return time.monotonic() - self._active_at_s

    def _live_over(self, line: UtteranceReport) -> None:
        self.touch()
        self.spoken_ms += line.heard_ms
        for observer in list(self._observers):
            observer.on_utterance_over(line)
        # Its speaker may go on with it at the next owner.
        self._on_line(line, line.outcome is UtteranceOutcome.LOST and self._moving)

    async def _rest(self) -> None:
        """Take the pose that was asked for while the avatar talked."""
        if self._playout.playing is None:
            with contextlib.suppress(LiteError):  # the reader tells
                await self._restore_pose()

    # The mouth tells (`PlayoutListener`).

    def on_progress(self, utterance: Utterance) -> None:
        """Speech went on to LiveAvatar."""
        if utterance.source == "clip":
            self.clips.on_progress(utterance)
        for observer in self._observers:
            observer.on_progress(utterance)

    def on_playback_started(self, utterance: Utterance) -> None:
        """The avatar has begun to say an utterance."""
        for observer in list(self._observers):
            observer.on_playback_started(utterance)

    def on_interrupt_sent(self) -> None:
        """An interrupt is on the wire, and has taken the pose, too."""
        self._pose_on_wire = Pose.IDLE

    # -------------------------------------------------------------- commands

    async def interrupt(self, up_to_sequence: int, delayed_s: float = 0.0) -> CommandOutcome:
        """Cut live speech, and clips up to one; always sent, for events may be missing.

        Args:
            up_to_sequence: clips asked for later are not meant.
            delayed_s: for how long it waited on its way: live speech begun since is not meant.

        Raises:
            NotReady: there is no socket now.
        """
        asked_at_s = time.monotonic() - delayed_s
        self._cut(up_to_sequence, UtteranceOutcome.INTERRUPTED, asked_at_s)
        self.live.interrupt_inherited()
        self._usable()
        await self._playout.interrupt(up_to_sequence, asked_at_s=asked_at_s)
        await self._rest()
        return CommandOutcome.SENT

    async def interrupt_in_band(self, event_id: str | None) -> tuple[str | None, float]:
        """Cut all that is said or waits here, for a speaker.

        Returns:
            What was being said, and the seconds of it that had been heard; see `Playout.interrupt`.

        Raises:
            NotReady: the session is being let go.
        """
        self.touch()
        said = self._playout.active
        heard_s = 0.0 if said is None else said.heard_s(time.monotonic())
        self._playout.discard_in_band()
        self.live.interrupt_inherited()
        if self.state in (OwnedState.CONNECTING, OwnedState.RECONNECTING):
            # What LiveAvatar has buffered goes on without us: the next socket begins with it.
            if self._interrupt_owed is None:
                self._interrupt_owed = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._interrupt_owed})
            if self._interrupt_owed is not None:
                self._usable()  # let go of meanwhile
            return (None if said is None else said.id), heard_s
        self._usable()
        cut = await self._playout.interrupt(None, event_id, said=said)
        await self._rest()
        return cut

    def _cut(
        self, up_to_sequence: int, outcome: UtteranceOutcome, asked_at_s: float | None = None
    ) -> None:
        self.clips.cut(up_to_sequence, outcome)
        self._playout.discard(up_to_sequence, outcome, asked_at_s)

    async def set_pose_in_band(self, pose: Pose) -> None:
        """Take a pose because a speaker says so; see `set_pose`."""
        self.touch()
        await self.set_pose(pose)
        self._on_pose(pose)

    async def set_pose(self, pose: Pose) -> CommandOutcome:
        """Take a pose; while the avatar talks, afterwards (LiveAvatar asks for that).

        Raises:
            NotReady: there is no socket now.
        """
        self._usable()
        self._pose = pose
        if self._playout.playing is not None:
            return CommandOutcome.DEFERRED
        await self._restore_pose()
        return CommandOutcome.SENT

    async def _restore_pose(self) -> None:
        connection = self._connection
        if connection is None or self._pose is self._pose_on_wire:
            return
        async with self._playout.send_lock:
            if self._pose is Pose.LISTENING:
                await connection.start_listening()
            else:
                await connection.stop_listening()
            self._pose_on_wire = self._pose
            self._sent()

    async def keep_alive(self) -> CommandOutcome:
        """Restart LiveAvatar's idle clock.

        Raises:
            NotReady: there is no socket now.
        """
        connection = self._usable()
        async with self._playout.send_lock:
            await connection.keep_alive()
            self._sent()
        return CommandOutcome.SENT

    def stop_feeding(self, up_to_sequence: int) -> CommandOutcome:
        """Say nothing more, and let go of the socket once LiveAvatar closes it."""
        self._cut(up_to_sequence, UtteranceOutcome.CANCELLED)
        if self.state not in (OwnedState.LETTING_GO, OwnedState.CLOSED):
            self._to(OwnedState.LETTING_GO)
        self._released.set()
        return CommandOutcome.SENT

    async def retire(self, patience_s: float) -> CommandOutcome:
        """Finish what is being said, and begin nothing more: the next generation will."""
        await self._playout.retire(patience_s)
        return CommandOutcome.SENT

    async def hand_over(self) -> CommandOutcome:
        """Let go of a session that another goes on with; what is not said is told as left off.

        LiveAvatar would say on what it has, while the other one says it, too: it is cut.
        """
        await self.close(moving=True, cut=True)
        return CommandOutcome.SENT

    def _usable(self) -> LiteConnection:
        if self.state is not OwnedState.READY or self._connection is None:
            raise OwnerNotReady(f"the session is {self.state.name}")
        return self._connection
