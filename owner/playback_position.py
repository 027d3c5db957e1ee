"""What the avatar has played of one utterance: its segments, their clocks, heard time and gaps.

Pure bookkeeping: every time is an argument, in seconds of one monotonic clock. Sends nothing and
ends no utterance; `owner.utterance_chunks` decides, this module measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from avatar_sessions.contract.reports import SpeechGap
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite import BYTES_PER_S, SAMPLE_BYTES, Pacer, duration_s, size_bytes

USUAL_START_LATENCY_S: Final = 0.2
"""From the first chunk until playback starts (one observer's figure), until it is reported."""
UNREPORTED_START_S: Final = 2.0
"""How long past its computed end an open segment waits for LiveAvatar to report its start."""
SEGMENT_END_AFTER_S: Final = 0.3
"""Without speech for so long in mid-utterance, the segment ends and the avatar regains its pose.

LiveAvatar reports `video_starvation` after a time that is not documented; the simulator's is 1 s.
"""
INTERRUPT_LATENCY_S: Final = 0.19
"""From an interrupt on the wire until silence, where it is not reported (188 ms seen)."""
MAX_GAPS: Final = 100
_INSTANT_S: Final = 0.001
_SHORTEST_GAP_S: Final = 0.02
"""A shorter silence is the clocks' own grain."""


@dataclass(frozen=True, slots=True)
class EarlierPart:
    """What owners before this one sent of an utterance."""

    sent_bytes: int = 0
    unplayed_s: float = 0.0
    """How much of it the avatar has still to play."""
    silent_ms: int = 0
    """How long the avatar has been silent since it played all of it."""
    same_provider_session: bool = True
    """False: another LiveAvatar session has it, and this one knows nothing of it."""


@dataclass(slots=True)
class _Segment:
    """What LiveAvatar takes for one utterance: the whole, or a part between two pauses."""

    id: str
    pacer: Pacer
    started_at_s: float | None = None
    """When LiveAvatar reported the start of playback; None before that."""
    end_sent: bool = False
    """Its ``speak_end`` is on the wire."""
    finished: bool = False
    """The end of its playback is reported, or settled without a report."""


class Playback:
    """The playback account of one utterance.

    Attributes:
        last_contact_s: when LiveAvatar was last heard from; None before a chunk was sent. What is
            computed for later times is not certain.
        left_unplayed_s: what the avatar had still to play when the utterance was settled.
        gaps: silences in mid-utterance, the first hundred.
    """

    def __init__(
        self, utterance_id: str, *, max_lead_s: float, now_s: float, earlier: EarlierPart
    ) -> None:
        self.last_contact_s: float | None = None
        self.left_unplayed_s = 0.0
        self.gaps: list[SpeechGap] = []
        self._utterance_id = utterance_id
        self._max_lead_s = max_lead_s
        self._segments: list[_Segment] = []
        earlier_s = duration_s(earlier.sent_bytes)
        unplayed_s = min(earlier.unplayed_s, earlier_s)
        self._heard_s = earlier_s - unplayed_s  # of segments that are finished
        self._played_s = 0.0
        self._silent_since: tuple[float, int] | None = None  # when and at which position
        self._played_out_at_s: float | None = None  # of a segment whose start is not reported
        self._first_sent_s: float | None = None
        self._first_started_s: float | None = None
        if earlier.silent_ms:
            self.gaps.append(SpeechGap(at_ms=to_ms(earlier_s), duration_ms=earlier.silent_ms))
        if earlier.sent_bytes and earlier.same_provider_session:
            # LiveAvatar's segment from the earlier owner is still open, and goes on.
            segment = _Segment(utterance_id, Pacer(max_lead_s=max_lead_s), now_s)
            segment.pacer.start(now_s)
            segment.pacer.sent(size_bytes(unplayed_s))
            self._segments.append(segment)

    # -------------------------------------------------------------- segments

    @property
    def segment_id(self) -> str:
        """LiveAvatar's ``event_id`` for the next chunk."""
        segment = self._open_segment
        if segment is not None:
            return segment.id
        number = len(self._segments) + 1
        return self._utterance_id if number == 1 else f"{self._utterance_id}~{number}"

    @property
    def segment_is_open(self) -> bool:
        """Whether LiveAvatar waits for more chunks or for an end."""
        return self._open_segment is not None

    @property
    def unfinished_segments(self) -> list[str]:
        """The segments that LiveAvatar has, open or still to be played, as far as is known."""
        return [segment.id for segment in self._segments if not segment.finished]

    @property
    def all_finished(self) -> bool:
        """Whether nothing is being played, as far as LiveAvatar reported."""
        return all(segment.finished for segment in self._segments)

    def owns(self, segment_id: str | None) -> bool:
        """Whether a segment that LiveAvatar names belongs to this utterance."""
        return any(segment.id == segment_id for segment in self._segments)

    # --------------------------------------------------------------- sending

    def send_wait_s(self, now_s: float, chunk_bytes: int) -> float:
        """How long to wait before a chunk may be sent, so that sending keeps within the lead."""
        segment = self._open_segment
        return 0.0 if segment is None else segment.pacer.wait_s(now_s, chunk_bytes)

    def segment_end_due_s(self, now_s: float, position_bytes: int) -> float | None:
        """In how many seconds an open segment with no more speech is to end; 0 for now.

        Args:
            now_s: now.
            position_bytes: how much of the utterance was sent; a gap starts here.

        Returns:
            None if no segment is open. Ask again after the wait, or when playback starts.
        """
        segment = self._open_segment
        if segment is None:
            return None
        lead_s = segment.pacer.lead_s(now_s)
        if lead_s > 0:
            return lead_s + _INSTANT_S
        if segment.started_at_s is None:
            if self._played_out_at_s is None:
                self._played_out_at_s = now_s
            if now_s - self._played_out_at_s < UNREPORTED_START_S:
                return UNREPORTED_START_S
        if self._silent_since is None:
            self._silent_since = (now_s, position_bytes)
        due_s = self._silent_since[0] + SEGMENT_END_AFTER_S - now_s
        return due_s if due_s > _INSTANT_S else 0.0

    def on_chunk_sent(self, chunk_bytes: int, now_s: float, *, after_s: float = 0.0) -> None:
        """Account for a chunk on the wire; the first one of a segment opens it.

        Args:
            chunk_bytes: its size.
            now_s: now.
            after_s: how long earlier utterances still play before this one starts.
        """
        segment = self._open_segment
        if segment is None:
            segment = _Segment(self.segment_id, Pacer(max_lead_s=self._max_lead_s))
            segment.pacer.start(now_s + max(after_s, USUAL_START_LATENCY_S))
            self._segments.append(segment)
        elif segment.started_at_s is not None:
            self._end_gap(now_s)
        self._played_out_at_s = None
        if self._first_sent_s is None:
            self._first_sent_s = now_s
        segment.pacer.sent(chunk_bytes, now_s)

    def on_segment_end_sent(self) -> None:
        """The open segment's ``speak_end`` is on the wire."""
        segment = self._open_segment
        if segment is not None:
            segment.end_sent = True

    def reopen(self) -> bool:
        """The socket is gone, and perhaps an end with it: LiveAvatar's segment is open again.

        Returns:
            Whether there is such a segment.
        """
        if not self._segments or self._segments[-1].finished:
            return False
        self._segments[-1].end_sent = False
        return True

    def on_chunks_lost(self, lost_bytes: int) -> None:
        """Chunks of the newest segment did not arrive: they count when they are sent again."""
        if self._segments:
            self._segments[-1].pacer.sent(-lost_bytes)

    # -------------------------------------------------------------- playback

    def on_started(self, segment_id: str, now_s: float) -> bool:
        """LiveAvatar reported the start of a segment.

        Returns:
            Whether the segment is one of this utterance that had not started.
        """
        segment = self._named(segment_id)
        if segment is None or segment.started_at_s is not None or segment.finished:
            return False
        segment.started_at_s = now_s
        segment.pacer.start(now_s)
        self._end_gap(now_s)
        if self._first_started_s is None:
            self._first_started_s = now_s
        return True

    def on_finished(self, segment_id: str, now_s: float, *, cut: bool) -> bool:
        """LiveAvatar reported the end of a segment.

        Args:
            segment_id: the segment.
            now_s: now.
            cut: an interrupt or the utterance's outcome ended it before all of it was played.

        Returns:
            Whether that settled the segment. A late report, or silence between two chunks of an
            open segment, changes nothing.
        """
        segment = self._named(segment_id)
        if segment is None or segment.finished or not (segment.end_sent or cut):
            return False
        self._settle(segment, now_s, whole=not cut)
        return True

    def settle(
        self, now_s: float, outcome: UtteranceOutcome | None, ended_at_s: float | None
    ) -> None:
        """Settle the segments whose end LiveAvatar did not report and will not report any more.

        Args:
            now_s: now.
            outcome: the utterance's; it decides how much counts as heard.
            ended_at_s: when that outcome was fixed.
        """
        if outcome is UtteranceOutcome.INTERRUPTED:
            now_s = min(now_s, (ended_at_s or now_s) + INTERRUPT_LATENCY_S)
        self.left_unplayed_s = max(self.left_unplayed_s, self.unplayed_s(now_s))
        if outcome is UtteranceOutcome.LOST:
            now_s = self._certain(now_s)  # the avatar may have frozen since
        for segment in self._segments:
            if not segment.finished:
                self._settle(segment, now_s, whole=outcome is UtteranceOutcome.COMPLETED)

    def heard_s(self, now_s: float) -> float:
        """Seconds of speech heard by now, according to the clock."""
        playing = (one.pacer.heard_s(now_s) for one in self._segments if not one.finished)
        return self._heard_s + sum(playing)

    def heard_bytes(self, now_s: float) -> int:
        """The same as a position in whole samples, and for certain: as of the last contact.

        A speaker keeps what comes after it, because it may have to be sent again.
        """
        heard_s = self.heard_s(self._certain(now_s))
        return round(heard_s * BYTES_PER_S / SAMPLE_BYTES) * SAMPLE_BYTES

    def unplayed_s(self, now_s: float) -> float:
        """Seconds of speech that were sent and are not played, according to the clock."""
        return sum(one.pacer.lead_s(now_s) for one in self._segments if not one.finished)

    @property
    def started(self) -> bool:
        """Whether LiveAvatar reported the start of a segment that this owner opened."""
        return self._first_started_s is not None

    @property
    def settled_heard_s(self) -> float:
        """Seconds of speech heard, in segments that are finished."""
        return self._heard_s

    @property
    def played_s(self) -> float:
        """Seconds between LiveAvatar's own reports of start and end, over all segments."""
        return self._played_s

    @property
    def first_audio_s(self) -> float | None:
        """From the first chunk on the wire until playback started; None before both."""
        if self._first_started_s is None or self._first_sent_s is None:
            return None
        return self._first_started_s - self._first_sent_s

    # --------------------------------------------------------------- private

    @property
    def _open_segment(self) -> _Segment | None:
        newest = self._segments[-1] if self._segments else None
        return None if newest is None or newest.end_sent else newest

    def _named(self, segment_id: str) -> _Segment | None:
        return next((one for one in self._segments if one.id == segment_id), None)

    def _certain(self, now_s: float) -> float:
        return now_s if self.last_contact_s is None else min(now_s, self.last_contact_s)

    def _end_gap(self, now_s: float) -> None:
        silent_since, self._silent_since = self._silent_since, None
        if silent_since is None:
            return
        since_s, position_bytes = silent_since
        if now_s - since_s >= _SHORTEST_GAP_S and len(self.gaps) < MAX_GAPS:
            at_ms = to_ms(duration_s(position_bytes))
            self.gaps.append(SpeechGap(at_ms=at_ms, duration_ms=to_ms(now_s - since_s)))

    def _settle(self, segment: _Segment, now_s: float, *, whole: bool) -> None:
        segment.finished = segment.end_sent = True
        self._heard_s += segment.pacer.sent_s if whole else segment.pacer.heard_s(now_s)
        if segment.started_at_s is not None:
            self._played_s += max(0.0, now_s - segment.started_at_s)


def to_ms(seconds: float) -> int:
    """Whole milliseconds."""
    return round(seconds * 1000)
