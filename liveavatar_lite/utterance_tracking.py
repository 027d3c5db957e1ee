"""The client role's record of utterances: which one an event is about, and its playback phase.

The service reports utterances in several dialects (``agent.speak_*``, ``agent.state_updated``,
both, with or without usable ids). They become two events, each exactly once: `UtteranceStarted`
and `UtteranceEnded`. No socket, no clock; `protocol` uses it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final

from .audio import BYTES_PER_S
from .errors import IllegalTransition, ProtocolViolation

REMEMBERED: Final = 64
"""The number of finished utterances kept, so that late events about them are recognised."""


@dataclass(frozen=True, slots=True)
class UtteranceStarted:
    """Playback of this utterance started. Exactly once, in every dialect."""

    utterance_id: str


@dataclass(frozen=True, slots=True)
class UtteranceEnded:
    """Playback of this utterance is over. Exactly once, in every dialect.

    An utterance that was interrupted before it began has no `UtteranceStarted`.
    """

    utterance_id: str
    interrupted: bool


class PlaybackPhase(Enum):
    """The playback phase of an utterance, according to the service's events."""

    QUEUED = "queued"
    """Audio was sent; playback has not started."""
    PLAYING = "playing"
    """The utterance is playing."""
    DRY = "dry"
    """The avatar has no audio left although the utterance was not ended: audio comes too slowly."""
    OVER = "over"
    """Played to its end, or interrupted."""


_LEGAL: Final = {
    PlaybackPhase.QUEUED: {PlaybackPhase.PLAYING, PlaybackPhase.OVER},
    PlaybackPhase.PLAYING: {PlaybackPhase.DRY, PlaybackPhase.OVER},
    PlaybackPhase.DRY: {PlaybackPhase.PLAYING, PlaybackPhase.OVER},
    PlaybackPhase.OVER: set[PlaybackPhase](),
}


@dataclass(slots=True)
class _Utterance:
    id: str
    playback: PlaybackPhase = PlaybackPhase.QUEUED
    end_sent: bool = False  # speak_end or an interrupt was sent: takes no more audio
    cut: bool = False  # an interrupt was sent before it was over
    pcm_bytes: int = 0
    chunks_unanswered: int = 0  # sent and not acknowledged by audio_buffer_appended
    committed: bool = False  # speak_end was acknowledged
    acked_s: float | None = None  # when its first chunk was acknowledged
    started_s: float = 0.0  # when it became PLAYING, by the caller's clock

    def go(self, playback: PlaybackPhase) -> None:
        if playback not in _LEGAL[self.playback]:
            raise IllegalTransition(
                f"utterance {self.id!r} cannot go from {self.playback.value} to {playback.value}"
            )
        self.playback = playback


@dataclass(slots=True)
class _Cut:
    """An interrupt that was sent and not acknowledged yet."""

    event_id: str | None
    utterances: list[_Utterance]


Change = UtteranceStarted | UtteranceEnded


@dataclass(slots=True)
class UtteranceBook:
    """All utterances of one connection, in the order in which they were opened.

    The service has one open utterance: it ends at speak_end or interrupt, not where the id changes.
    The book therefore refuses audio for a second one while the first is open.
    """

    _all: dict[str, _Utterance] = field(default_factory=dict)
    _unfinished: list[_Utterance] = field(default_factory=list)  # those not over, oldest first
    _tasks: dict[str, _Utterance | None] = field(default_factory=dict)  # None: ambiguous
    _cuts: deque[_Cut] = field(default_factory=deque)

    # --- sent -----------------------------------------------------------------------------

    def check_open(self, utterance_id: str) -> None:
        """Refuse audio that the service would append to another utterance.

        Raises:
            IllegalTransition: the utterance was ended or interrupted.
            ProtocolViolation: another one is open.
        """
        utterance = self._all.get(utterance_id)
        if utterance is not None and utterance.end_sent:
            raise IllegalTransition(
                f"utterance {utterance_id!r} cannot go from ended to open: "
                "more audio needs a new utterance id",
                event_id=utterance_id,
            )
        current = self.open_utterance
        if current is not None and current != utterance_id:
            raise ProtocolViolation(
                f"utterance {current!r} is still open: end or interrupt it before {utterance_id!r}",
                event_id=utterance_id,
            )

    @property
    def open_utterance(self) -> str | None:
        """The utterance that takes audio now, if there is one."""
        newest = self._unfinished[-1] if self._unfinished else None
        return newest.id if newest is not None and not newest.end_sent else None

    def sent_audio(self, utterance_id: str, pcm_bytes: int) -> None:
        """A chunk was sent; opens the utterance if it is new. Call `check_open` first."""
        utterance = self._all.get(utterance_id)
        if utterance is None:
            utterance = self._all[utterance_id] = _Utterance(utterance_id)
            self._unfinished.append(utterance)
            self._forget_the_oldest()
        utterance.pcm_bytes += pcm_bytes
        utterance.chunks_unanswered += 1
        if utterance.playback is PlaybackPhase.DRY:
            utterance.go(PlaybackPhase.PLAYING)

    def adopt(self, utterance_id: str) -> None:
        """Add an utterance of an earlier connection that is not over."""
        if utterance_id not in self._all:
            utterance = self._all[utterance_id] = _Utterance(utterance_id)
            self._unfinished.append(utterance)

    def end(self, utterance_id: str) -> None:
        """The utterance's speak_end was sent.

        Raises:
            IllegalTransition: it was ended or interrupted already, or never opened.
        """
        utterance = self._all.get(utterance_id)
        if utterance is None or utterance.end_sent:
            state = "unopened" if utterance is None else "ended"
            raise IllegalTransition(
                f"utterance {utterance_id!r} cannot go from {state} to ended",
                event_id=utterance_id,
            )
        utterance.end_sent = True

    def cut(self, event_id: str | None) -> list[str]:
        """An interrupt was sent. Returns the utterances that it ends, oldest first."""
        for utterance in self._unfinished:
            utterance.end_sent = utterance.cut = True
        self._cuts.append(_Cut(event_id, list(self._unfinished)))
        return [utterance.id for utterance in self._unfinished]

    # --- received -------------------------------------------------------------------------

    def appended(
        self, source: str | None, event: str | None, task: str | None, now_s: float
    ) -> str | None:
        """A chunk was acknowledged. Acks come in order, one per chunk, with the task's id."""
        utterance = self._by_id(source, event)
        if utterance is None:
            utterance = next((each for each in self._all.values() if each.chunks_unanswered), None)
        if utterance is None:
            return None
        utterance.chunks_unanswered = max(0, utterance.chunks_unanswered - 1)
        if utterance.acked_s is None:
            utterance.acked_s = now_s
        if task is not None:
            known = self._tasks.setdefault(task, utterance)
            if known is not None and known is not utterance:
                # A task of the whole session identifies no utterance, unless the former is over.
                over = known.playback is PlaybackPhase.OVER
                self._tasks[task] = utterance if over else None
        return utterance.id

    def committed(
        self, source: str | None, event: str | None, task: str | None
    ) -> tuple[str | None, list[Change]]:
        """A speak_end was acknowledged. Ends an utterance only if it had run dry."""
        utterance = self._named(source, event, task)
        if utterance is None and source is None:
            waiting = (each for each in self._unfinished if each.end_sent and not each.committed)
            utterance = next(waiting, None)
        if utterance is None:
            return None, []
        utterance.committed = True
        if utterance.playback is PlaybackPhase.DRY and utterance.end_sent:
            return utterance.id, self._over(utterance)
        return utterance.id, []

    def cleared(self, source: str | None, event: str | None) -> tuple[str | None, list[Change]]:
        """An interrupt was acknowledged: its utterances are over, also those that had not begun."""
        if not self._cuts:
            return None, []
        cut = next((each for each in self._cuts if each.event_id in {source, event} - {None}), None)
        cut = cut or self._cuts[0]
        changes: list[Change] = []
        while self._cuts:  # acks come in order: earlier interrupts are settled too
            settled = self._cuts.popleft()
            for utterance in settled.utterances:
                changes += self._over(utterance)
            if settled is cut:
                break
        return (cut.utterances[0].id if cut.utterances else None), changes

    def speak_started(
        self, source: str | None, event: str | None, task: str | None, now_s: float
    ) -> tuple[str | None, list[Change]]:
        """``agent.speak_started``: the identified utterance, else the oldest that has not begun."""
        utterance = self._named(source, event, task)
        if utterance is None and source is None:
            # After ``talking``, the utterance that began with it is meant.
            utterance = self._playing() or self._oldest(PlaybackPhase.QUEUED)
        if utterance is None:
            return None, []
        return utterance.id, self._start(utterance, now_s)

    def speak_ended(
        self,
        source: str | None,
        event: str | None,
        task: str | None,
        now_s: float,
        *,
        interrupted: bool = False,
    ) -> tuple[str | None, list[Change]]:
        """``agent.speak_ended`` or ``agent.speak_interrupted``; late ones change nothing."""
        utterance = self._named(source, event, task)
        if utterance is None and source is None:
            utterance = self._playing()
        if utterance is None or utterance.playback is PlaybackPhase.OVER:
            return (utterance.id if utterance else None), []
        if interrupted:
            utterance.end_sent = utterance.cut = True
            return utterance.id, self._over(utterance)
        changes = self._start(utterance, now_s) if not utterance.cut else []
        return utterance.id, changes + self._rest(utterance)

    def pose_talking(self, now_s: float) -> list[Change]:
        """The pose became ``talking``: the next utterance has started, unless one was reported."""
        utterance = self._oldest(PlaybackPhase.DRY, PlaybackPhase.PLAYING) or self._oldest(
            PlaybackPhase.QUEUED
        )
        return self._start(utterance, now_s) if utterance is not None else []

    def pose_rested(self, now_s: float) -> list[Change]:
        """The pose left ``talking``: the playing utterance is over if it was ended, dry if not.

        Servers without speak_* events may go from one utterance to the next without leaving
        ``talking``. The time of talking then says how many queued utterances were played. Time in
        which it had run dry does not count: an utterance cannot be played before it was sent.
        """
        utterance = self._playing()
        if utterance is None:
            return []
        spare_s = now_s - utterance.started_s - utterance.pcm_bytes / BYTES_PER_S
        acknowledges = utterance.acked_s is not None
        changes = self._rest(utterance)
        for follower in [
            each for each in self._unfinished if each.playback is PlaybackPhase.QUEUED
        ]:
            length_s = follower.pcm_bytes / BYTES_PER_S
            if acknowledges:
                sent_s = now_s if follower.acked_s is None else follower.acked_s
                spare_s = min(spare_s, now_s - sent_s)
            if not follower.end_sent or spare_s < length_s / 2:
                break
            spare_s -= length_s
            changes += self._start(follower, now_s) + self._over(follower)
        return changes

    def known(self, *ids: str | None) -> str | None:
        """The first id that is an utterance's, if any."""
        utterance = self._by_id(*ids)
        return utterance.id if utterance is not None else None

    # --- inside ---------------------------------------------------------------------------

    def _by_id(self, *ids: str | None) -> _Utterance | None:
        return next(
            (self._all[each] for each in ids if each is not None and each in self._all), None
        )

    def _named(self, source: str | None, event: str | None, task: str | None) -> _Utterance | None:
        """By source_event_id, then event_id, then task: the order of reliability as observed."""
        return self._by_id(source, event) or (self._tasks.get(task) if task is not None else None)

    def _oldest(self, *stages: PlaybackPhase) -> _Utterance | None:
        return next((each for each in self._unfinished if each.playback in stages), None)

    def _playing(self) -> _Utterance | None:
        return self._oldest(PlaybackPhase.PLAYING)

    def _start(self, utterance: _Utterance, now_s: float) -> list[Change]:
        if utterance.playback is PlaybackPhase.DRY:
            utterance.go(PlaybackPhase.PLAYING)
        if utterance.playback is not PlaybackPhase.QUEUED:
            return []
        changes: list[Change] = []
        for earlier in self._unfinished[: self._unfinished.index(utterance)]:
            changes += self._over(
                earlier
            )  # one plays at a time: the next has begun, so this is over
        utterance.go(PlaybackPhase.PLAYING)
        utterance.started_s = now_s
        changes.append(UtteranceStarted(utterance.id))
        return changes

    def _rest(self, utterance: _Utterance) -> list[Change]:
        if utterance.end_sent:
            return self._over(utterance)
        if utterance.playback is PlaybackPhase.PLAYING:
            utterance.go(PlaybackPhase.DRY)
            utterance.started_s = inf  # after a pause its playing time is unknown: see pose_rested
        return []

    def _over(self, utterance: _Utterance) -> list[Change]:
        if utterance.playback is PlaybackPhase.OVER:
            return []
        utterance.go(PlaybackPhase.OVER)
        utterance.end_sent = True
        self._unfinished.remove(utterance)
        return [UtteranceEnded(utterance.id, interrupted=utterance.cut)]

    def _forget_the_oldest(self) -> None:
        """Bound memory: keep open utterances and the last `REMEMBERED` that are over."""
        finished = [each for each in self._all.values() if each.playback is PlaybackPhase.OVER]
        for utterance in finished[:-REMEMBERED]:
            del self._all[utterance.id]
            for task in [task for task, known in self._tasks.items() if known is utterance]:
                del self._tasks[task]
