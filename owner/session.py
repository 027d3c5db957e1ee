"""One session of this process: its WebSocket to LiveAvatar, its playout, and the order of commands.

Commands and speech meet here and nowhere else. Knows LITE mode, nothing of Temporal: reports go to
a `SessionSupervisor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pydantic import SecretStr

from avatar_sessions.contract.activities import ClipSpoken, Epoch, StreamEnd, StreamResult
from avatar_sessions.contract.reports import UtteranceReport
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
from owner.observer import Observer, ProviderEnd, SessionSupervisor
from owner.playout_queue import Playout
from owner.utterance_chunks import Utterance

logger = logging.getLogger(__name__)

RECONNECT_PAUSES_S: Final = (0.1, 0.25, 0.5, 1.0)
"""Before the next tries to open a socket; then each second. LiveAvatar's own demo waits up to
eight, and misses the network's return."""
CONNECT_TIMEOUT_S: Final = 20.0
"""How long this process tries to open a socket; then another may have more luck."""
PROVIDER_END_TIMEOUT_S: Final = 2.0
"""How long LiveAvatar's REST API may take after a socket was lost: speech waits meanwhile."""


class OwnedState(Enum):
    """The state of the owner's connection."""

    CONNECTING = auto()
    READY = auto()
    RECONNECTING = auto()
    LETTING_GO = auto()  # nothing more is sent; the socket waits for LiveAvatar to close it
    CLOSED = auto()


TRANSITIONS: Final = {
    OwnedState.CONNECTING: {OwnedState.READY, OwnedState.LETTING_GO, OwnedState.CLOSED},
    OwnedState.READY: {OwnedState.RECONNECTING, OwnedState.LETTING_GO, OwnedState.CLOSED},
    OwnedState.RECONNECTING: {OwnedState.READY, OwnedState.LETTING_GO, OwnedState.CLOSED},
    OwnedState.LETTING_GO: {OwnedState.CLOSED},
    OwnedState.CLOSED: set[OwnedState](),
}


class OwnerNotReady(Exception):
    """The session has no socket at this moment, or is being released."""


@dataclass(frozen=True)
class OwnerLimits:
    """Times that an owner keeps to."""

    max_lead_s: float = 2.0
    """How far sending runs ahead of playback: what an interrupt discards at most."""
    keep_alive_s: float = 60.0
    connect_timeout_s: float = 15.0
    """Until the first socket is connected: the avatar joins its room meanwhile."""
    reconnect_timeout_s: float = 5.0
    """The same for a later one: the avatar is there."""
    dead_after_s: float = 4.0
    """Chunks sent and no answer for so long: the socket is dead, found in less than 5 s."""
    release_timeout_s: float = 3.0
    """How long a released socket waits for LiveAvatar to close it."""


class OwnedSession:
    """One session of this process.

    Attributes:
        epoch: the attempt of `stream_audio` that serves it. Only grows.
        generation: the number of its LiveAvatar session.
        supervised: False while it is not certain that no other owner has taken over.
        connects: how many sockets were connected.
        spoken_ms: how much speech was heard.
        clips: the queue of clips.
        live: the queue of live speech.
    """

    def __init__(
        self,
        *,
        key: str,
        epoch: Epoch,
        ws_url: SecretStr,
        limits: OwnerLimits,
        supervisor: SessionSupervisor,
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
        self._supervisor = supervisor
        self._observers: set[Observer] = set()
        self._playout = Playout(self)
        self.live = LiveQueue(self._playout, self, max_lead_s=limits.max_lead_s)
        self.clips = ClipQueue(self._playout, self, max_lead_s=limits.max_lead_s)
        self._connection: LiteConnection | None = None
        self._pending_interrupt: asyncio.Future[None] | None = None
        self._pose = Pose.IDLE
        self._pose_sent = Pose.IDLE
        self._reported_pose: str | None = None
        self._released = asyncio.Event()
        self._lost_at_s: float | None = None
        self._handing_over = False

    # ------------------------------------------------------------ connection

    async def run(self) -> StreamResult:
        """Keep a socket until the session is released, LiveAvatar ends it, or another owner has it.

        Raises:
            ConnectionFailed: no socket could be opened.
        """
        while not self._is_closed:
            connection = await self._connect()
            if self._is_closed:
                # LiveAvatar closes the older of two sockets, and the next owner may have one.
                if connection is not None:
                    await connection.close()
                break
            if connection is None:
                return await self._result(StreamEnd.PROVIDER_CLOSED, None)
            await self._on_connected(connection)
            await self._serve(connection)
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
            # LiveAvatar closes the older of two sockets, so a replaced owner must not reconnect.
            if not await self._supervisor.may_reconnect():
                return await self._result(StreamEnd.REPLACED, connection)
            if was_ready:
                self._supervisor.on_disconnected()
        return await self._result(StreamEnd.RELEASED, None)

    async def _ended_by_provider(self) -> ProviderEnd | None:
        """Whether LiveAvatar has ended the session; None also if that cannot be known now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROVIDER_END_TIMEOUT_S):
                return await self._supervisor.provider_end()
        return None

    async def _connect(self) -> LiteConnection | None:
        """Open the socket, with retries; None when the session has ended or was closed meanwhile.

        Raises:
            ConnectionFailed: it could not be opened for `CONNECT_TIMEOUT_S`.
        """
        limits = self._limits
        first = self.connects == 0
        give_up_s = time.monotonic() + CONNECT_TIMEOUT_S
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

    async def _on_connected(self, connection: LiteConnection) -> None:
        self._connection = connection
        self.connects += 1
        self._pose_sent = Pose.IDLE
        self._playout.last_sent_s = time.monotonic()
        try:
            await self._playout.on_connected(
                connection, interrupt=self._pending_interrupt is not None
            )
        except LiteError as error:
            logger.warning("the new socket is lost again: %s", error)  # `_serve` returns for it
            return
        pending, self._pending_interrupt = self._pending_interrupt, None
        if pending is not None and not pending.done():
            pending.set_result(None)
        if self.state is not OwnedState.LETTING_GO:
            self._to(OwnedState.READY)
            self._supervisor.on_ready(self._gap_ms())
            for observer in list(self._observers):
                observer.on_ready_changed(True)

    def _gap_ms(self) -> int:
        """How long there was no socket; at least 1 after a loss."""
        if self._lost_at_s is None:
            return 0
        gap_s, self._lost_at_s = time.monotonic() - self._lost_at_s, None
        return max(1, round(gap_s * 1000))

    async def _serve(self, connection: LiteConnection) -> None:
        """Handle LiveAvatar's events until the socket is closed."""
        tasks = [
            asyncio.create_task(self._keep_alive_loop(connection), name="keep-alive"),
            asyncio.create_task(self._close_after_release(connection), name="release"),
        ]
        try:
            await self._send_pose()
            async for event in connection.events():
                self._on_event(event)
        except LiteError as error:
            logger.warning("connection: %s", error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._connection = None
            self._playout.on_disconnected(connection)
            await connection.close()

    async def _result(self, end: StreamEnd, connection: LiteConnection | None) -> StreamResult:
        ended = await self._ended_by_provider() if end is StreamEnd.PROVIDER_CLOSED else None
        return StreamResult(
            end=end,
            close_code=connection.close_code if connection else None,
            provider_end_reason=ended.reason if ended else None,
            connects=self.connects,
        )

    async def _keep_alive_loop(self, connection: LiteConnection) -> None:
        """LiveAvatar ends a session after five minutes without a command; pings do not count."""
        while True:
            due_s = self._playout.last_sent_s + self._limits.keep_alive_s - time.monotonic()
            if due_s > 0:
                await asyncio.sleep(due_s)
                continue
            try:
                await self._send_keep_alive(connection)
            except LiteError:
                return  # the reader reports the loss

    async def _send_keep_alive(self, connection: LiteConnection) -> None:
        async with self._playout.send_lock:
            await connection.keep_alive()
            self._playout.last_sent_s = time.monotonic()

    async def _close_after_release(self, connection: LiteConnection) -> None:
        """Close a released socket if LiveAvatar does not close it after the stop."""
        await self._released.wait()
        await asyncio.sleep(self._limits.release_timeout_s)
        await connection.close()

    async def close(self, *, handover: bool = False, interrupt: bool = False) -> None:
        """Close the socket and end what is playing. Bounded; may be called twice.

        Args:
            handover: another owner goes on with the session.
            interrupt: LiveAvatar is to discard what it has not played.
        """
        if self.state is OwnedState.CLOSED:
            return
        interrupt = interrupt and self._playout.playing is not None
        releasing = self.state is OwnedState.LETTING_GO
        over = releasing or not handover
        self._handing_over = not over
        self._playout.sync_clock()
        for utterance in self._playout.utterances:
            self.on_progress(utterance)  # the position from which the next owner goes on
        for observer in list(self._observers):
            observer.on_released(over=over)
        self._to(OwnedState.CLOSED)
        if self._pending_interrupt is not None:
            self._pending_interrupt.cancel()
        self._playout.close(UtteranceOutcome.CANCELLED if releasing else UtteranceOutcome.LOST)
        if interrupt and self._connection is not None:
            with contextlib.suppress(LiteError):  # the socket is gone anyhow
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
        """Whether it is neither closed nor being released."""
        return self.state not in (OwnedState.LETTING_GO, OwnedState.CLOSED)

    @property
    def handing_over(self) -> bool:
        """Whether it is closed here to go on at another owner."""
        return self._handing_over

    def _to(self, wanted: OwnedState) -> None:
        if wanted not in TRANSITIONS[self.state]:
            raise RuntimeError(f"an owned session cannot go from {self.state} to {wanted}")
        self.state = wanted

    # ------------------------------------------------------------- observers

    @property
    def speaking(self) -> str | None:
        """The id of the utterance that is playing."""
        playing = self._playout.playing
        return None if playing is None else playing.id

    def add_observer(self, observer: Observer) -> None:
        """Notify an observer until `remove_observer`."""
        self._observers.add(observer)

    def remove_observer(self, observer: Observer) -> None:
        """Stop notifying an observer."""
        self._observers.discard(observer)

    def disconnect_observers(self) -> None:
        """Make speakers look for the owner again: nothing can be sent here, and there may be one
        elsewhere."""
        for observer in list(self._observers):
            observer.on_released(over=False)

    @property
    def observer_count(self) -> int:
        """How many speakers are connected."""
        return len(self._observers)

    def _on_event(self, event: Event) -> None:
        match event:
            case UtteranceStarted(utterance_id=segment_id):
                self._playout.on_playback_started(segment_id)
            case UtteranceEnded(utterance_id=segment_id, interrupted=interrupted):
                self._playout.on_playback_finished(segment_id, interrupted=interrupted)
            case PoseChanged(state=pose):
                previous, self._reported_pose = self._reported_pose, pose
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
        """Play a clip after what is playing; see `ClipQueue.play`.

        Raises:
            OwnerNotReady: there is no socket now; nothing was sent.
        """
        known = self.clips.knows(clip.utterance_id)
        if not known:
            self._usable_connection()
        spoken = await self.clips.play(clip, progress)
        if not known:
            self.spoken_ms += spoken.report.heard_ms
        return spoken

    def touch(self) -> None:
        """Restart the idle time: a speaker has requested something in band."""
        self._active_at_s = time.monotonic()

    def idle_s(self) -> float:
        """Seconds since the last request in band; 0 while something is playing or queued."""
        if self._playout.utterances:
            self.touch()
        return time.monotonic() - self._active_at_s

    def report_of(self, utterance: Utterance) -> UtteranceReport:
        """The report of an utterance that is over; for the queues (`SpeechSession`)."""
        return utterance.report(owner=self._owner, generation=self.generation)

    def on_live_over(self, report: UtteranceReport) -> None:
        """A live utterance is over; for `LiveQueue` (`SpeechSession`)."""
        self.touch()
        self.spoken_ms += report.heard_ms
        for observer in list(self._observers):
            observer.on_utterance_over(report)
        # The speaker may continue an utterance at the next owner.
        may_continue = report.outcome is UtteranceOutcome.LOST and self._handing_over
        self._supervisor.on_report(report, may_continue=may_continue)

    async def after_speech(self) -> None:
        """Take the pose that was requested while the avatar spoke (`SpeechSession`)."""
        if self._playout.playing is None:
            with contextlib.suppress(LiteError):  # the reader reports the loss
                await self._send_pose()

    def on_progress(self, utterance: Utterance) -> None:
        """A chunk of an utterance is on the wire; for `Playout` (`PlayoutListener`)."""
        if utterance.source == "clip":
            self.clips.on_progress(utterance)
        for observer in self._observers:
            observer.on_progress(utterance)

    def on_playback_started(self, utterance: Utterance) -> None:
        """The avatar has begun to speak an utterance (`PlayoutListener`)."""
        for observer in list(self._observers):
            observer.on_playback_started(utterance)

    def on_interrupt_sent(self) -> None:
        """An interrupt is on the wire; it resets the pose (`PlayoutListener`)."""
        self._pose_sent = Pose.IDLE

    # -------------------------------------------------------------- commands

    async def interrupt(self, up_to_sequence: int, delayed_s: float = 0.0) -> CommandOutcome:
        """Interrupt live speech and clips up to a number; always sent, for events may be missing.

        Args:
            up_to_sequence: clips with a higher sequence number are not meant.
            delayed_s: how long the command waited on its way: live speech begun since is not meant.

        Raises:
            OwnerNotReady: there is no socket now.
        """
        asked_at_s = time.monotonic() - delayed_s
        self._discard(up_to_sequence, UtteranceOutcome.INTERRUPTED, asked_at_s)
        self.live.interrupt_inherited()
        self._usable_connection()
        await self._playout.interrupt(up_to_sequence, asked_at_s=asked_at_s)
        await self.after_speech()
        return CommandOutcome.SENT

    async def interrupt_in_band(self, event_id: str | None) -> tuple[str | None, float]:
        """Interrupt all that is playing or queued here, for a speaker.

        Returns:
            The id of what was playing, and the seconds of it that had been heard; see
            `Playout.interrupt`.

        Raises:
            OwnerNotReady: the session is being released.
        """
        self.touch()
        active = self._playout.active
        heard_s = 0.0 if active is None else active.heard_s(time.monotonic())
        self._playout.discard_in_band()
        self.live.interrupt_inherited()
        if self.state in (OwnedState.CONNECTING, OwnedState.RECONNECTING):
            # LiveAvatar plays on what it has buffered: the next socket begins with the interrupt.
            if self._pending_interrupt is None:
                self._pending_interrupt = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._pending_interrupt})
            if self._pending_interrupt is not None:
                self._usable_connection()  # raises: the session was closed meanwhile
            return (None if active is None else active.id), heard_s
        self._usable_connection()
        interrupted = await self._playout.interrupt(None, event_id, discarded=active)
        await self.after_speech()
        return interrupted

    def _discard(
        self, up_to_sequence: int, outcome: UtteranceOutcome, asked_at_s: float | None = None
    ) -> None:
        self.clips.discard(up_to_sequence, outcome)
        self._playout.discard(up_to_sequence, outcome, asked_at_s)

    async def set_pose_in_band(self, pose: Pose) -> None:
        """Take a pose that a speaker requested; see `set_pose`."""
        self.touch()
        await self.set_pose(pose)
        self._supervisor.on_pose_requested(pose)

    async def set_pose(self, pose: Pose) -> CommandOutcome:
        """Take a pose; while the avatar speaks, afterwards (LiveAvatar asks for that).

        Raises:
            OwnerNotReady: there is no socket now.
        """
        self._usable_connection()
        self._pose = pose
        if self._playout.playing is not None:
            return CommandOutcome.DEFERRED
        await self._send_pose()
        return CommandOutcome.SENT

    async def _send_pose(self) -> None:
        """Send the requested pose, unless the avatar has it."""
        connection = self._connection
        if connection is None or self._pose is self._pose_sent:
            return
        async with self._playout.send_lock:
            if self._pose is Pose.LISTENING:
                await connection.start_listening()
            else:
                await connection.stop_listening()
            self._pose_sent = self._pose
            self._playout.last_sent_s = time.monotonic()

    async def keep_alive(self) -> CommandOutcome:
        """Restart LiveAvatar's idle clock.

        Raises:
            OwnerNotReady: there is no socket now.
        """
        await self._send_keep_alive(self._usable_connection())
        return CommandOutcome.SENT

    def stop_feeding(self, up_to_sequence: int) -> CommandOutcome:
        """Send no more speech, and release the socket, which LiveAvatar closes after the stop."""
        self._discard(up_to_sequence, UtteranceOutcome.CANCELLED)
        if self.state not in (OwnedState.LETTING_GO, OwnedState.CLOSED):
            self._to(OwnedState.LETTING_GO)
        self._released.set()
        return CommandOutcome.SENT

    async def retire(self, timeout_s: float) -> CommandOutcome:
        """Finish what is playing, and begin nothing more: the next generation will."""
        await self._playout.retire(timeout_s)
        return CommandOutcome.SENT

    async def hand_over(self) -> CommandOutcome:
        """Release the session to another owner; what is not played is reported with its position.

        LiveAvatar would play on what it has, while the other owner sends it, too: so it is
        interrupted.
        """
        await self.close(handover=True, interrupt=True)
        return CommandOutcome.SENT

    def _usable_connection(self) -> LiteConnection:
        if self.state is not OwnedState.READY or self._connection is None:
            raise OwnerNotReady(f"the session is {self.state.name}")
        return self._connection
