"""Utterances and their playback, without a clock, socket or room.

Time is an argument, in seconds of any monotonic clock. Audio is played in blocks of 10 ms, so that
sound, events and video agree; blocks in which nothing can happen are advanced together. Sources:
the LITE events page, and measured delays.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil, floor, inf
from typing import Final

from liveavatar_lite.audio import BYTES_PER_S, duration_s
from liveavatar_lite.messages import AgentState

BLOCK_S: Final = 0.01
BLOCK_BYTES: Final = round(BYTES_PER_S * BLOCK_S)
UTTERANCES_KEPT: Final = 500
SILENCE_S: Final = 0.05
"""Silences within an utterance are recorded from this length on."""
SILENCES_KEPT: Final = 100
"""The newest silences of each utterance."""
_EPSILON_S: Final = 1e-6


class SpokenState(StrEnum):
    """The state of an utterance."""

    WAITING = "waiting"
    """Not played yet: too little audio, or earlier utterances are playing."""
    PLAYING = "playing"
    STARVED = "starved"
    """Begun, its input not finished, and without audio for too long."""
    PLAYED = "played"
    INTERRUPTED = "interrupted"
    DROPPED = "dropped"
    """Cleared before any of it was played."""
    CUT = "cut"
    """The session ended first."""


_LEGAL: Final[dict[SpokenState, frozenset[SpokenState]]] = {
    SpokenState.WAITING: frozenset(
        {
            SpokenState.PLAYING,
            SpokenState.PLAYED,
            SpokenState.DROPPED,
            SpokenState.CUT,
        }
    ),
    SpokenState.PLAYING: frozenset(
        {
            SpokenState.STARVED,
            SpokenState.PLAYED,
            SpokenState.INTERRUPTED,
            SpokenState.CUT,
        }
    ),
    SpokenState.STARVED: frozenset(
        {
            SpokenState.PLAYING,
            SpokenState.PLAYED,
            SpokenState.INTERRUPTED,
            SpokenState.CUT,
        }
    ),
    SpokenState.PLAYED: frozenset(),
    SpokenState.INTERRUPTED: frozenset(),
    SpokenState.DROPPED: frozenset(),
    SpokenState.CUT: frozenset(),
}


@dataclass(frozen=True, slots=True)
class PlaybackSilence:
    """A time within an utterance without audio to play."""

    begin_s: float
    end_s: float


@dataclass(eq=False, slots=True)
class SpokenUtterance:
    """One utterance, from its first chunk to its last sound."""

    event_id: str | None
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: SpokenState = SpokenState.WAITING
    input_finished: bool = False
    """No more audio will come: ``agent.speak_end`` or ``agent.interrupt`` arrived."""
    sent_bytes: int = 0
    played_bytes: int = 0
    ready_at_s: float | None = None
    """When there was enough audio to begin; None before."""
    dry_since_s: float | None = None
    began_s: float | None = None
    """When its first sound was played."""
    sounded_until_s: float = 0.0
    """When its last sound so far had been played; meaningless before it began."""
    silences: deque[PlaybackSilence] = field(default_factory=lambda: deque(maxlen=SILENCES_KEPT))
    """Silences that have ended, by more audio or with the utterance."""
    _pcm: bytearray | None = field(default_factory=bytearray, repr=False)
    """Audio that was sent and not played; None: audio is only counted."""

    @property
    def over(self) -> bool:
        """Whether playback is over."""
        return not _LEGAL[self.state]

    @property
    def buffered_bytes(self) -> int:
        """Audio that was sent and not played."""
        return 0 if self.over else self.sent_bytes - self.played_bytes

    def append(self, pcm: bytes) -> None:
        """Add audio."""
        if self._pcm is not None:
            self._pcm += pcm
        self.sent_bytes += len(pcm)

    def take(self, blocks: int, *, now_s: float) -> bytes:
        """Play this many blocks, padded with silence; empty if audio is only counted."""
        size = blocks * BLOCK_BYTES
        taken = min(size, self.buffered_bytes)
        if self.began_s is None:
            self.began_s = now_s
        self._note_silence(now_s)
        self.sounded_until_s = now_s + duration_s(taken)
        self.played_bytes += taken
        if self._pcm is None:
            return b""
        played = bytes(self._pcm[:taken])
        del self._pcm[:taken]
        return played.ljust(size, b"\0")

    def become(self, state: SpokenState) -> None:
        """Change the state.

        Raises:
            RuntimeError: this state cannot follow the current one.
        """
        if state not in _LEGAL[self.state]:
            raise RuntimeError(f"an utterance that is {self.state} cannot become {state}")
        self.state = state

    def end(self, state: SpokenState, *, now_s: float) -> None:
        """Change to a final state.

        Raises:
            RuntimeError: this state cannot follow the current one.
        """
        self.become(state)
        self._note_silence(now_s)
        if self._pcm is not None:
            self._pcm.clear()

    def _note_silence(self, now_s: float) -> None:
        if self.played_bytes and now_s - self.sounded_until_s >= SILENCE_S - _EPSILON_S:
            self.silences.append(PlaybackSilence(self.sounded_until_s, now_s))


@dataclass(frozen=True, slots=True)
class SpeechBegun:
    """The first sound of an utterance was played."""

    utterance: SpokenUtterance


@dataclass(frozen=True, slots=True)
class SpeechFinished:
    """The last sound of an utterance was played."""

    utterance: SpokenUtterance


@dataclass(frozen=True, slots=True)
class SpeechCut:
    """An utterance was interrupted during playback."""

    utterance: SpokenUtterance


@dataclass(frozen=True, slots=True)
class Starved:
    """An utterance ran out of audio before its input was finished."""

    utterance: SpokenUtterance


@dataclass(frozen=True, slots=True)
class Cleared:
    """An interrupt took effect; ``event_id`` is the interrupt's."""

    event_id: str | None
    utterance: SpokenUtterance | None


@dataclass(frozen=True, slots=True)
class PoseTaken:
    """The avatar changed its pose."""

    previous: AgentState
    new: AgentState


PlaybackEvent = SpeechBegun | SpeechFinished | SpeechCut | Starved | Cleared | PoseTaken


@dataclass(frozen=True, slots=True)
class PlaybackTimes:
    """The delays of a playback, in seconds. See `SimulatorSettings` for their sources."""

    start_buffer_s: float = 0.4
    start_latency_s: float = 0.2
    interrupt_delay_s: float = 0.19
    starvation_s: float = 1.0


@dataclass(frozen=True, slots=True)
class _PendingClear:
    due_s: float
    event_id: str | None
    utterances: tuple[SpokenUtterance, ...]


class SimulatedPlayback:
    """The avatar's playback queue and pose. Commands act immediately; `advance` passes time.

    Args:
        times: the delays.
        now_s: the time at which it begins.
        audible: False: audio is only counted, because it is neither played nor recorded.
    """

    def __init__(self, times: PlaybackTimes, *, now_s: float, audible: bool = True) -> None:
        self._times = times
        self._audible = audible
        self._clock_s = now_s
        self._queue: deque[SpokenUtterance] = deque()
        self._open: SpokenUtterance | None = None
        self._clears: deque[_PendingClear] = deque()
        self._listening = False
        self._pose = AgentState.IDLE
        self.utterances: deque[SpokenUtterance] = deque(maxlen=UTTERANCES_KEPT)
        """The newest utterances, over or not, oldest first."""

    @property
    def pose(self) -> AgentState:
        """The avatar's current pose."""
        return self._pose

    @property
    def playing(self) -> SpokenUtterance | None:
        """The utterance that is playing now."""
        head = self._queue[0] if self._queue else None
        return head if head is not None and head.state is SpokenState.PLAYING else None

    # --- commands ---------------------------------------------------------------------------------

    def append(self, pcm: bytes, event_id: str | None, *, now_s: float) -> SpokenUtterance:
        """Add audio to the open utterance; opens one if none is.

        The boundary is set by `finish`, not by the id.
        """
        if self._open is None:
            self._open = SpokenUtterance(event_id, _pcm=bytearray() if self._audible else None)
            self._queue.append(self._open)
            self.utterances.append(self._open)
        self._open.append(pcm)
        self._check_ready(self._open, now_s)
        return self._open

    def finish(
        self, event_id: str | None, pcm: bytes | None, *, now_s: float
    ) -> SpokenUtterance | None:
        """Finish the open utterance's input, after a last piece of audio if there is one.

        Returns None if no utterance is open.
        """
        if pcm:
            self.append(pcm, event_id, now_s=now_s)
        finished, self._open = self._open, None
        if finished is not None:
            finished.input_finished = True
            self._check_ready(finished, now_s)
        return finished

    def interrupt(self, event_id: str | None, *, now_s: float) -> None:
        """Interrupt everything sent so far; playback stops after the interrupt delay.

        Audio that arrives later opens a new utterance.
        """
        if self._open is not None:
            self._open.input_finished = True
            self._open = None
        self._listening = False
        due_s = now_s + self._times.interrupt_delay_s
        self._clears.append(_PendingClear(due_s, event_id, tuple(self._queue)))

    def listen(self, listening: bool) -> None:
        """Take or leave the attentive pose; while talking, after the end of speech."""
        self._listening = listening

    def cut(self) -> None:
        """Stop playback for good: the session is over."""
        for utterance in self._queue:
            utterance.end(SpokenState.CUT, now_s=self._clock_s)
        self._queue.clear()
        self._clears.clear()
        self._open = None

    # --- time -------------------------------------------------------------------------------------

    def advance(self, now_s: float) -> tuple[bytes, list[PlaybackEvent]]:
        """Advance to ``now_s``; returns the audio of that time, silence included, and its events.

        The audio is empty if it is only counted.
        """
        pieces: list[bytes] = []
        events: list[PlaybackEvent] = []
        while self._clock_s + BLOCK_S <= now_s + _EPSILON_S:
            events += self._clear_due(self._clock_s)
            head = self._playing_next(events)
            blocks = int(min(self._blocks_until(now_s), self._blocks_alike(head)))
            if head is not None:
                pieces.append(head.take(blocks, now_s=self._clock_s))
            elif self._audible:
                pieces.append(bytes(blocks * BLOCK_BYTES))
            self._clock_s += blocks * BLOCK_S
        events += self._clear_due(now_s)
        events += self._pose_changes()
        return b"".join(pieces), events

    def due_s(self) -> float | None:
        """When `advance` has the next event, if no command comes before; None: never."""
        due_s = self._clears[0].due_s if self._clears else inf
        unchanged_s = self._unchanged_for_s(self._queue[0]) if self._queue else inf
        if unchanged_s < inf:
            # The event comes after the first block that begins no sooner.
            blocks = ceil(unchanged_s / BLOCK_S - _EPSILON_S) + 1
            due_s = min(due_s, self._clock_s + blocks * BLOCK_S)
        return None if due_s == inf else due_s

    def _blocks_until(self, now_s: float) -> int:
        """How many whole blocks fit before ``now_s``; at least one."""
        return max(1, floor((now_s + _EPSILON_S - self._clock_s) / BLOCK_S))

    def _blocks_alike(self, head: SpokenUtterance | None) -> float:
        """How many blocks from now on are like the next one; at least one."""
        unchanged_s = inf
        if head is not None:
            unchanged_s = ceil(head.buffered_bytes / BLOCK_BYTES) * BLOCK_S
        elif self._queue:
            unchanged_s = self._unchanged_for_s(self._queue[0])
        if self._clears:
            unchanged_s = min(unchanged_s, self._clears[0].due_s - self._clock_s)
        # Rounded down: a block too few costs one more step, a block too many delays an event.
        return inf if unchanged_s == inf else max(1, floor(unchanged_s / BLOCK_S + _EPSILON_S))

    def _unchanged_for_s(self, head: SpokenUtterance) -> float:
        """How long the head of the queue stays in its state, counted from the clock's time."""
        if head.state is not SpokenState.PLAYING:
            if head.ready_at_s is None:
                return inf
            return max(0.0, head.ready_at_s + self._times.start_latency_s - self._clock_s)
        sound_s = ceil(head.buffered_bytes / BLOCK_BYTES) * BLOCK_S
        if head.input_finished:
            return sound_s
        if sound_s or head.dry_since_s is None:
            return sound_s + self._times.starvation_s
        return max(0.0, head.dry_since_s + self._times.starvation_s - self._clock_s)

    def _playing_next(self, events: list[PlaybackEvent]) -> SpokenUtterance | None:
        """The utterance that plays in the next block, after the changes that precede it."""
        now_s = self._clock_s
        while self._queue:
            head = self._queue[0]
            if head.state is not SpokenState.PLAYING and not self._may_begin(head, now_s):
                break
            if head.buffered_bytes == 0:
                if head.input_finished:
                    self._finish(head, now_s, events)
                    continue
                self._count_dry(head, now_s, events)
                break
            if head.state is not SpokenState.PLAYING:
                events += self._begin(head)
            head.dry_since_s = None
            return head
        return None

    def _may_begin(self, utterance: SpokenUtterance, now_s: float) -> bool:
        ready_at_s = utterance.ready_at_s
        return ready_at_s is not None and now_s + _EPSILON_S >= (
            ready_at_s + self._times.start_latency_s
        )

    def _begin(self, utterance: SpokenUtterance) -> Iterable[PlaybackEvent]:
        resumed = utterance.state is SpokenState.STARVED
        utterance.become(SpokenState.PLAYING)
        yield from self._pose_changes()
        if not resumed:
            yield SpeechBegun(utterance)

    def _finish(
        self, utterance: SpokenUtterance, now_s: float, events: list[PlaybackEvent]
    ) -> None:
        begun = utterance.state is not SpokenState.WAITING
        utterance.end(SpokenState.PLAYED, now_s=now_s)
        self._queue.popleft()
        if begun:
            events.append(SpeechFinished(utterance))
        events += self._pose_changes()

    def _count_dry(
        self, utterance: SpokenUtterance, now_s: float, events: list[PlaybackEvent]
    ) -> None:
        if utterance.state is not SpokenState.PLAYING:
            return
        if utterance.dry_since_s is None:
            utterance.dry_since_s = now_s
        if now_s - utterance.dry_since_s >= self._times.starvation_s:
            utterance.become(SpokenState.STARVED)
            utterance.ready_at_s = None
            events.append(Starved(utterance))
            events += self._pose_changes()

    def _clear_due(self, now_s: float) -> Iterable[PlaybackEvent]:
        while self._clears and self._clears[0].due_s <= now_s + _EPSILON_S:
            clear = self._clears.popleft()
            cut: SpokenUtterance | None = None
            for utterance in clear.utterances:
                if utterance.over:
                    continue
                begun = utterance.state is not SpokenState.WAITING
                outcome = SpokenState.INTERRUPTED if begun else SpokenState.DROPPED
                utterance.end(outcome, now_s=clear.due_s)
                self._queue.remove(utterance)
                cut = utterance if begun else cut
            yield Cleared(clear.event_id, cut)
            if cut is not None:
                yield SpeechCut(cut)
            yield from self._pose_changes()

    def _check_ready(self, utterance: SpokenUtterance, now_s: float) -> None:
        enough_bytes = self._times.start_buffer_s * BYTES_PER_S
        enough = utterance.buffered_bytes >= max(enough_bytes, 1)
        if utterance.ready_at_s is None and (enough or utterance.input_finished):
            utterance.ready_at_s = now_s

    def _pose_changes(self) -> Iterable[PlaybackEvent]:
        if self.playing is not None:
            pose = AgentState.TALKING
        else:
            pose = AgentState.LISTENING if self._listening else AgentState.IDLE
        if pose is not self._pose:
            previous, self._pose = self._pose, pose
            yield PoseTaken(previous, pose)
