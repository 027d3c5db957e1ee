"""Which utterance is meant, and where its playback stands: the client role's memory.

The service speaks about utterances in several dialects (``agent.speak_*``, ``agent.state_updated``,
both, with or without usable ids). Here they become two facts, each told exactly once: an utterance
started, an utterance is over. No socket, no clock, no messages sent: `protocol` uses it.
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
"""How many finished utterances are kept, so that late events about them are recognised."""


@dataclass(frozen=True, slots=True)
class UtteranceStarted:
    """The avatar began to say this utterance. Exactly once, in every dialect."""

    utterance_id: str


@dataclass(frozen=True, slots=True)
class UtteranceEnded:
    """Nothing more of this utterance will be heard. Exactly once, in every dialect.

    An utterance that was cut before it began has no `UtteranceStarted`.
    """

    utterance_id: str
    interrupted: bool


class PlaybackPhase(Enum):
    """Where the service's playback of an utterance stands, as far as its events tell."""

    QUEUED = "queued"
    """Audio was sent; nothing of it plays yet."""
    PLAYING = "playing"
    """The avatar is saying it."""
    DRY = "dry"
    """The avatar fell silent although the utterance was not sealed: we feed too slowly."""
    OVER = "over"
    """Played to its end, or cut."""


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
    sealed: bool = False  # by speak_end or interrupt: takes no more audio
    cut: bool = False  # an interrupt was sent before it was over
    pcm_bytes: int = 0
    chunks_unanswered: int = 0  # sent, not acknowledged by audio_buffer_appended
    committed: bool = False  # speak_end was acknowledged
    acked_s: float | None = None  # when its first chunk was acknowledged
    started_s: float = 0.0  # set on PLAYING, by the caller's clock

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

    The service knows one utterance at a time: it ends at speak_end or interrupt, not where the id
    changes. The book therefore refuses audio for a second one while the first is open.
    """

    _all: dict[str, _Utterance] = field(default_factory=dict)
    _live: list[_Utterance] = field(default_factory=list)  # those not over, oldest first
    _tasks: dict[str, _Utterance | None] = field(default_factory=dict)  # None: not telling apart
    _cuts: deque[_Cut] = field(default_factory=deque)

    # --- what we send ---------------------------------------------------------------------

    def check_open(self, utterance_id: str) -> None:
        """Refuse audio that the service would put into another utterance than the one named.

        Raises:
            IllegalTransition: the utterance is sealed.
            ProtocolViolation: another one is still open.
        """
        utterance = self._all.get(utterance_id)
        if utterance is not None and utterance.sealed:
            raise IllegalTransition(
                f"utterance {utterance_id!r} cannot go from sealed to open: "
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
        newest = self._live[-1] if self._live else None
        return newest.id if newest is not None and not newest.sealed else None

    def sent_audio(self, utterance_id: str, pcm_bytes: int) -> None:
        """A chunk went out; opens the utterance if need be. Call `check_open` first."""
        utterance = self._all.get(utterance_id)
        if utterance is None:
            utterance = self._all[utterance_id] = _Utterance(utterance_id)
            self._live.append(utterance)
            self._forget_the_oldest()
        utterance.pcm_bytes += pcm_bytes
        utterance.chunks_unanswered += 1
        if utterance.playback is PlaybackPhase.DRY:
            utterance.go(PlaybackPhase.PLAYING)

    def adopt(self, utterance_id: str) -> None:
        """An earlier connection of the session opened this utterance, and it is not over."""
        if utterance_id not in self._all:
            utterance = self._all[utterance_id] = _Utterance(utterance_id)
            self._live.append(utterance)

    def seal(self, utterance_id: str) -> None:
        """The utterance's speak_end went out.

        Raises:
            IllegalTransition: it is sealed already, or was never opened.
        """
        utterance = self._all.get(utterance_id)
        if utterance is None or utterance.sealed:
            state = "unopened" if utterance is None else "sealed"
            raise IllegalTransition(
                f"utterance {utterance_id!r} cannot go from {state} to sealed",
                event_id=utterance_id,
            )
        utterance.sealed = True

    def cut(self, event_id: str | None) -> list[str]:
        """An interrupt went out. Returns the utterances that it cuts, oldest first."""
        for utterance in self._live:
            utterance.sealed = utterance.cut = True
        self._cuts.append(_Cut(event_id, list(self._live)))
        return [utterance.id for utterance in self._live]

    # --- what we hear ---------------------------------------------------------------------

    def appended(
        self, source: str | None, event: str | None, task: str | None, now_s: float
    ) -> str | None:
        """A chunk was acknowledged. Acks come in order, one a chunk; the first teaches the task."""
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
                # A task per session says nothing about utterances unless the former is done.
                over = known.playback is PlaybackPhase.OVER
                self._tasks[task] = utterance if over else None
        return utterance.id

    def committed(
        self, source: str | None, event: str | None, task: str | None
    ) -> tuple[str | None, list[Change]]:
        """A speak_end was acknowledged. That ends an utterance only if it had run dry."""
        utterance = self._named(source, event, task)
        if utterance is None and source is None:
            waiting = (each for each in self._live if each.sealed and not each.committed)
            utterance = next(waiting, None)
        if utterance is None:
            return None, []
        utterance.committed = True
        if utterance.playback is PlaybackPhase.DRY and utterance.sealed:
            return utterance.id, self._over(utterance)
        return utterance.id, []

    def cleared(self, source: str | None, event: str | None) -> tuple[str | None, list[Change]]:
        """An interrupt was acknowledged: what it cut is over, also what had not begun."""
        if not self._cuts:
            return None, []
        cut = next((each for each in self._cuts if each.event_id in {source, event} - {None}), None)
        cut = cut or self._cuts[0]
        changes: list[Change] = []
        while self._cuts:  # acks come in order: an earlier cut without one is settled too
            settled = self._cuts.popleft()
            for utterance in settled.utterances:
                changes += self._over(utterance)
            if settled is cut:
                break
        return (cut.utterances[0].id if cut.utterances else None), changes

    def speak_started(
        self, source: str | None, event: str | None, task: str | None, now_s: float
    ) -> tuple[str | None, list[Change]]:
        """``agent.speak_started``: the named utterance, else the oldest that has not begun."""
        utterance = self._named(source, event, task)
        if utterance is None and source is None:
            # Told after ``talking``: the one that this has begun already is the one meant.
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
            utterance.sealed = utterance.cut = True
            return utterance.id, self._over(utterance)
        changes = self._start(utterance, now_s) if not utterance.cut else []
        return utterance.id, changes + self._rest(utterance)

    def pose_talking(self, now_s: float) -> list[Change]:
        """The pose became ``talking``: whatever is next has begun, unless it was announced."""
        utterance = self._oldest(PlaybackPhase.DRY, PlaybackPhase.PLAYING) or self._oldest(
            PlaybackPhase.QUEUED
        )
        return self._start(utterance, now_s) if utterance is not None else []

    def pose_rested(self, now_s: float) -> list[Change]:
        """The pose left ``talking``: what was playing is over if it was sealed, dry if not.

        Servers without speak_* events may talk on from one utterance into the next without a
        rest between. How long the avatar talked tells how many of the queued ones that were. Time
        in which it had run dry does not count: a follower cannot have been said before it was sent.
        """
        utterance = self._playing()
        if utterance is None:
            return []
        spare_s = now_s - utterance.started_s - utterance.pcm_bytes / BYTES_PER_S
        acknowledges = utterance.acked_s is not None
        changes = self._rest(utterance)
        for follower in [each for each in self._live if each.playback is PlaybackPhase.QUEUED]:
            length_s = follower.pcm_bytes / BYTES_PER_S
            if acknowledges:
                sent_s = now_s if follower.acked_s is None else follower.acked_s
                spare_s = min(spare_s, now_s - sent_s)
            if not follower.sealed or spare_s < length_s / 2:
                break
            spare_s -= length_s
            changes += self._start(follower, now_s) + self._over(follower)
        return changes

    def known(self, *ids: str | None) -> str | None:
        """The first of the ids that is an utterance's, if any."""
        utterance = self._by_id(*ids)
        return utterance.id if utterance is not None else None

    # --- inside ---------------------------------------------------------------------------

    def _by_id(self, *ids: str | None) -> _Utterance | None:
        return next(
            (self._all[each] for each in ids if each is not None and each in self._all), None
        )

    def _named(self, source: str | None, event: str | None, task: str | None) -> _Utterance | None:
        """By source_event_id, then event_id, then task: the order of the live observations."""
        return self._by_id(source, event) or (self._tasks.get(task) if task is not None else None)

    def _oldest(self, *stages: PlaybackPhase) -> _Utterance | None:
        return next((each for each in self._live if each.playback in stages), None)

    def _playing(self) -> _Utterance | None:
        return self._oldest(PlaybackPhase.PLAYING)

    def _start(self, utterance: _Utterance, now_s: float) -> list[Change]:
        if utterance.playback is PlaybackPhase.DRY:
            utterance.go(PlaybackPhase.PLAYING)
        if utterance.playback is not PlaybackPhase.QUEUED:
            return []
        changes: list[Change] = []
        for earlier in self._live[: self._live.index(utterance)]:
            changes += self._over(earlier)  # one mouth: the next has begun, so this is over
        utterance.go(PlaybackPhase.PLAYING)
        utterance.started_s = now_s
        changes.append(UtteranceStarted(utterance.id))
        return changes

    def _rest(self, utterance: _Utterance) -> list[Change]:
        if utterance.sealed:
            return self._over(utterance)
        if utterance.playback is PlaybackPhase.PLAYING:
            utterance.go(PlaybackPhase.DRY)
            utterance.started_s = inf  # the pause blurs how long it plays: see pose_rested
        return []

    def _over(self, utterance: _Utterance) -> list[Change]:
        if utterance.playback is PlaybackPhase.OVER:
            return []
        utterance.go(PlaybackPhase.OVER)
        utterance.sealed = True
        self._live.remove(utterance)
        return [UtteranceEnded(utterance.id, interrupted=utterance.cut)]

    def _forget_the_oldest(self) -> None:
        """Keep what is live and the last few that are over; a connection may speak for hours."""
        finished = [each for each in self._all.values() if each.playback is PlaybackPhase.OVER]
        for utterance in finished[:-REMEMBERED]:
            del self._all[utterance.id]
            for task in [task for task, known in self._tasks.items() if known is utterance]:
                del self._tasks[task]
