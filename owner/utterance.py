"""One utterance on its way to the avatar: what came in, went out, was heard, and how it ended.

Speech flows in by `write` (from a speaker, from a clip), and out by `next_step`, which says what
its feeder does now. No I/O; times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final, Literal

from avatar_sessions.contract.messages import Failure, SpeechGap, UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite import BYTES_PER_S, SAMPLE_BYTES, Chunker, Pacer, duration_s, size_bytes

USUAL_START_LATENCY_S: Final = 0.2
"""From the first chunk until the avatar talks (one observer's figure), until it is reported."""
UNHEARD_PATIENCE_S: Final = 2.0
"""How long past its computed end an open part waits for a sign that the avatar began to say it."""
REST_AFTER_S: Final = 0.3
"""Nothing to say for so long, in mid-utterance: the avatar gets its pose back.

LiveAvatar reports `video_starvation` after a time that is not documented; the simulator's is 1 s.
"""
STALL_PATIENCE_S: Final = 30.0
"""How long an open utterance may bring nothing while its speaker is there."""
RESUME_PATIENCE_S: Final = 10.0
"""How long an utterance waits for a speaker whose connection broke."""
CUT_LATENCY_S: Final = 0.19
"""From an interrupt on the wire until silence, where LiveAvatar does not tell (188 ms seen)."""
MAX_GAPS: Final = 100
_INSTANT_S: Final = 0.001
_SHORTEST_GAP_S: Final = 0.02
"""A shorter silence is the clocks' own grain."""


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Put this chunk on the wire, then call `Utterance.on_chunk_sent`."""

    chunk: bytes


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing to do for so many seconds, or until `Utterance.pause` is woken."""

    seconds: float


@dataclass(frozen=True, slots=True)
class NothingToSend:
    """End the segment: the producer has stalled, and the avatar shall not stare."""


@dataclass(frozen=True, slots=True)
class EndSegment:
    """Everything is on the wire: end the segment, and the utterance with it."""


@dataclass(frozen=True, slots=True)
class AbandonUtterance:
    """Nobody brings the rest."""

    failure: Failure


Step = SendChunk | WaitUntil | NothingToSend | EndSegment | AbandonUtterance


class _WakeOn(Enum):
    """What of all that comes in the feeder waits for."""

    NOTHING = auto()  # it waits for time to pass
    CHUNK = auto()  # a full chunk
    ANYTHING = auto()


@dataclass(slots=True)
class _Segment:
    """What LiveAvatar takes for an utterance: ours, or a part of it between two rests."""

    id: str
    pacer: Pacer
    talking_since_s: float | None = None
    end_sent: bool = False
    silent: bool = False


class Utterance:
    """An utterance from its first byte to its line in the ledger.

    Attributes:
        outcome: done when nothing more of it is to be sent.
        received_bytes: taken in, from the utterance's beginning.
        sent_bytes: on the wire to LiveAvatar, by this owner or one before it.
        finished: no more will come in.
        end_sent: all of it is on the wire, with its end.
        writer: who brings its speech now; what an earlier one still brings is not taken.
        began_at_s: when it was asked for here, by the process's monotonic clock.
        cut_in_band_at: when a speaker interrupted it.
        inherited: an earlier owner has begun it, and LiveAvatar has not heard of it from this one.
        last_heard_s: when LiveAvatar was heard last; None before anything of it was sent.
        left_unplayed_s: when it was closed, what the avatar had still to play.
        full_duration_s: how long it is as a whole; None where only its end tells.
    """

    def __init__(
        self,
        utterance_id: str,
        *,
        max_lead_s: float,
        sequence: int = 0,
        source: Literal["clip", "live"] = "clip",
        text: str | None = None,
        offset_bytes: int = 0,
        inherited: bool = True,
        unplayed_s: float = 0.0,
        silent_ms: int = 0,
    ) -> None:
        """Make one that has nothing yet.

        Args:
            utterance_id: also LiveAvatar's ``event_id`` for it.
            max_lead_s: how far sending may run ahead of playback.
            order: position among the session's clips, from 1; 0 for live speech.
            source: where it comes from.
            text: its words, for the ledger.
            offset_bytes: what an earlier owner has sent of it.
            inherited: LiveAvatar has what was sent; False: another session of it had.
            unplayed_s: how much of that the avatar has still to play.
            silent_ms: how long the avatar had nothing to say since then.
        """
        self._loop = asyncio.get_running_loop()
        self.id = utterance_id
        self.sequence = sequence
        self.source = source
        self.text = text
        self.outcome: asyncio.Future[UtteranceOutcome] = self._loop.create_future()
        self.failure: Failure | None = None
        self.received_bytes = offset_bytes
        self.sent_bytes = offset_bytes
        self.finished = False
        self.end_sent = False
        self.writer: object | None = None
        self.full_duration_s: float | None = None
        self.cut_in_band_at: datetime | None = None
        self.inherited = inherited and offset_bytes > 0
        self.left_unplayed_s = 0.0
        self.began_at_s = time.monotonic()
        self._began_at = datetime.now(UTC)
        self._max_lead_s = max_lead_s
        self._offset_bytes = offset_bytes
        self._chunker = Chunker()
        self._ready: deque[bytes] = deque()
        self._odd = b""
        # Chunks, each with its number on the connection, that LiveAvatar has not confirmed.
        self._unconfirmed: deque[tuple[int, bytes]] = deque()
        self._segments: list[_Segment] = []
        unplayed_s = min(unplayed_s, duration_s(offset_bytes))
        self._heard_before_s = duration_s(offset_bytes) - unplayed_s  # in segments that are silent
        self._talked_s = 0.0
        self._silence: tuple[float, int] | None = None  # nothing to say: since when, and where
        self._unheard_since_s: float | None = None  # see `_dry_since_s`
        self._gaps: list[SpeechGap] = []
        if silent_ms:
            self._gaps.append(SpeechGap(at_ms=_ms(duration_s(offset_bytes)), duration_ms=silent_ms))
        self._first_sent_s: float | None = None
        self._first_talked_s: float | None = None
        self._ended_at_s: float | None = None
        self._last_written_s: float | None = None
        self._detached_at_s: float | None = None
        self.last_heard_s: float | None = None
        if self.inherited:
            # What LiveAvatar has of it is open there, and goes on.
            segment = _Segment(utterance_id, Pacer(max_lead_s=max_lead_s), self.began_at_s)
            segment.pacer.start(self.began_at_s)
            segment.pacer.sent(size_bytes(unplayed_s))
            self._segments.append(segment)
        self._waiter: asyncio.Future[None] | None = None
        self._wake_on = _WakeOn.ANYTHING
        self._room = asyncio.Event()

    # ------------------------------------------------------------------- in

    def write(self, pcm: bytes, now_s: float) -> None:
        """Take PCM in; a piece may cut a sample in half. What is over or finished takes nothing."""
        if self.over or self.finished or not pcm:
            return
        self.received_bytes += len(pcm)
        self._last_written_s = now_s
        if self._odd or len(pcm) % SAMPLE_BYTES:
            pcm = self._odd + pcm
            whole = len(pcm) - len(pcm) % SAMPLE_BYTES
            pcm, self._odd = pcm[:whole], pcm[whole:]
        self._ready.extend(self._chunker.push(pcm, now_s))
        if self._wake_on is _WakeOn.ANYTHING or (self._wake_on is _WakeOn.CHUNK and self._ready):
            self.wake()

    def finish(self) -> None:
        """No more will come: what is there is said, and the utterance end_sent."""
        if not self.finished:
            self.finished = True
            self.wake()

    def detach_writer(self, now_s: float) -> None:
        """Its speaker is gone, and may come back."""
        self._detached_at_s = now_s
        self.wake()

    def reattach_writer(self, now_s: float) -> int:
        """Its speaker is back: the position to go on from. Half a sample left behind is dropped."""
        self._detached_at_s, self._last_written_s = None, now_s
        self.received_bytes -= len(self._odd)
        self._odd = b""
        self.wake()
        return self.received_bytes

    @property
    def unsent_bytes(self) -> int:
        """What came in and has not gone out."""
        return sum(map(len, self._ready)) + self._chunker.pending_bytes

    async def wait_for_room(self, limit_bytes: int) -> None:
        """Wait until no more than so much waits to be sent, or it is over."""
        while self.unsent_bytes > limit_bytes and not self.over:
            self._room.clear()
            await self._room.wait()

    # ------------------------------------------------------------------ out

    def next_step(self, now_s: float) -> Step:
        """What to do now with what has come in."""
        flush_due_s = self._chunker.flush_due_s()
        if not self._ready and (
            self.finished or (flush_due_s is not None and now_s >= flush_due_s - _INSTANT_S)
        ):
            self._ready.extend(self._chunker.flush())
            flush_due_s = None
        if self._ready:
            self._wake_on = _WakeOn.NOTHING
            segment = self._open_segment
            wait_s = segment.pacer.wait_s(now_s, len(self._ready[0])) if segment else 0.0
            return WaitUntil(wait_s) if wait_s > 0 else SendChunk(self._ready[0])
        if self.finished:
            return EndSegment()
        if flush_due_s is not None:
            self._wake_on = _WakeOn.CHUNK
            return WaitUntil(max(_INSTANT_S, flush_due_s - now_s))
        self._wake_on = _WakeOn.ANYTHING
        return self._when_starved(now_s)

    async def pause(self, seconds: float) -> None:
        """Wait until woken, or for so long."""
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self.wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def wake(self) -> None:
        """Let the feeder look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def segment_id(self) -> str:
        """LiveAvatar's id for what the next chunk belongs to."""
        segment = self._open_segment
        if segment is not None:
            return segment.id
        number = len(self._segments) + 1
        return self.id if number == 1 else f"{self.id}~{number}"

    @property
    def segment_is_open(self) -> bool:
        """Whether LiveAvatar waits for more, or for an end."""
        return self._open_segment is not None

    def on_chunk_sent(
        self,
        chunk: bytes,
        now_s: float,
        *,
        number: int,
        acknowledged: int,
        after_s: float = 0.0,
    ) -> None:
        """Account for the chunk that `next_step` gave: it is on the wire.

        Args:
            chunk: that chunk.
            now_s: now.
            number: how many chunks have been sent on this connection, with this one.
            acknowledged: how many of them LiveAvatar has acknowledged.
            after_s: how long the avatar still has to talk before it comes to this utterance.
        """
        if self._ready and self._ready[0] is chunk:
            self._ready.popleft()
        segment = self._open_segment
        if segment is None:
            segment = _Segment(self.segment_id, Pacer(max_lead_s=self._max_lead_s))
            segment.pacer.start(now_s + max(after_s, USUAL_START_LATENCY_S))
            self._segments.append(segment)
        elif segment.talking_since_s is not None:
            self._end_silence(now_s)
        self._unheard_since_s = None
        if self._first_sent_s is None:
            self._first_sent_s = now_s
        segment.pacer.sent(len(chunk), now_s)
        self.sent_bytes += len(chunk)
        self._confirm(acknowledged)
        self._unconfirmed.append((number, chunk))
        self._room.set()

    def on_segment_end_sent(self) -> None:
        """The open segment's ``speak_end`` is on the wire."""
        segment = self._open_segment
        if segment is not None:
            segment.end_sent = True

    def on_disconnected(self, acknowledged: int, *, acknowledges: bool) -> None:
        """The socket is gone, another may come: what LiveAvatar did not confirm is sent again.

        Args:
            acknowledged: chunks that it confirmed on the connection that is gone.
            acknowledges: whether it confirms chunks at all; one that never does is believed to
                have taken everything.
        """
        self._confirm(acknowledged)
        lost = [chunk for _, chunk in self._unconfirmed] if acknowledges else []
        self._unconfirmed.clear()
        segment = self._segments[-1] if self._segments else None
        if segment is None or self.over:
            return
        if not segment.silent:
            # Its end may be lost as well: what LiveAvatar has open is end_sent anew.
            segment.end_sent = self.end_sent = False
        for chunk in reversed(lost):
            self._ready.appendleft(chunk)
            self.sent_bytes -= len(chunk)
            segment.pacer.sent(-len(chunk))

    @property
    def unfinished_segments(self) -> list[str]:
        """What LiveAvatar has of it, as far as is known: open or still to be played."""
        return [segment.id for segment in self._segments if not segment.silent]

    # -------------------------------------------------------------- playback

    def owns(self, segment_id: str | None) -> bool:
        """Whether LiveAvatar speaks of this utterance."""
        return any(segment.id == segment_id for segment in self._segments)

    def on_playback_started(self, segment_id: str, now_s: float) -> bool:
        """LiveAvatar said that a segment has begun. Returns whether the utterance has, with it."""
        segment = self._named(segment_id)
        if segment is None or segment.talking_since_s is not None or segment.silent:
            return False
        segment.talking_since_s = now_s
        segment.pacer.start(now_s)
        self._end_silence(now_s)
        first, self._first_talked_s = self._first_talked_s is None, self._first_talked_s or now_s
        self.wake()
        return first

    def on_playback_finished(self, segment_id: str, *, interrupted: bool, now_s: float) -> None:
        """LiveAvatar said that a segment is over; what comes late changes nothing."""
        segment = self._named(segment_id)
        if segment is None or segment.silent:
            return
        if not (segment.end_sent or interrupted or self.over):
            return  # silence between two chunks is not the end
        self._settle(segment, now_s, whole=not interrupted and not self.over)
        if interrupted:
            self.end(UtteranceOutcome.INTERRUPTED, now_s)
        elif self.end_sent and self.silent:
            self.end(UtteranceOutcome.COMPLETED, now_s)
        self.wake()

    @property
    def over(self) -> bool:
        """Nothing more of it is to be sent."""
        return self.outcome.done()

    @property
    def silent(self) -> bool:
        """Nothing of it is being played, as far as LiveAvatar told."""
        return all(segment.silent for segment in self._segments)

    @property
    def has_earlier_owner(self) -> bool:
        """An owner before this one has sent some of it: older than all that was asked for here."""
        return self._offset_bytes > 0

    def is_done(self, now_s: float) -> bool:
        """An earlier owner has sent all of it, and that is played: LiveAvatar has told already."""
        return self._offset_bytes == self.sent_bytes > 0 and self.unplayed_s(now_s) <= 0

    def end(self, outcome: UtteranceOutcome, now_s: float, failure: Failure | None = None) -> None:
        """Fix the outcome; the first one stays."""
        if self.over:
            return
        self._ended_at_s = now_s
        self.failure = failure
        self.outcome.set_result(outcome)
        self._ready.clear()
        self.wake()
        self._room.set()

    def close(self, now_s: float) -> None:
        """Settle what LiveAvatar has not told about, and will not tell any more."""
        if self.over and self.outcome.result() is UtteranceOutcome.INTERRUPTED:
            now_s = min(now_s, (self._ended_at_s or now_s) + CUT_LATENCY_S)
        completed = self.over and self.outcome.result() is UtteranceOutcome.COMPLETED
        self.left_unplayed_s = max(self.left_unplayed_s, self.unplayed_s(now_s))
        lost = self.over and self.outcome.result() is UtteranceOutcome.LOST
        if lost and self.last_heard_s is not None:
            now_s = min(now_s, self.last_heard_s)  # it may have frozen since
        for segment in self._segments:
            if not segment.silent:
                self._settle(segment, now_s, whole=completed)

    def heard_s(self, now_s: float) -> float:
        """How much of it has been heard by now, as far as the clock tells."""
        playing = (one.pacer.heard_s(now_s) for one in self._segments if not one.silent)
        return self._heard_before_s + sum(playing)

    def played_bytes(self, now_s: float) -> int:
        """The same as a position, and for certain: as of when LiveAvatar was heard last.

        What comes after is kept by whoever may have to bring it again.
        """
        if self.last_heard_s is not None:
            now_s = min(now_s, self.last_heard_s)
        position = round(self.heard_s(now_s) * BYTES_PER_S / SAMPLE_BYTES) * SAMPLE_BYTES
        return min(self.sent_bytes, position)

    def unplayed_s(self, now_s: float) -> float:
        """How long the avatar still has to talk on what was sent, as far as the clock tells."""
        return sum(one.pacer.lead_s(now_s) for one in self._segments if not one.silent)

    # ----------------------------------------------------------------- ledger

    def report(self, *, owner: str | None = None, generation: int = 0) -> UtteranceReport:
        """Its line in the ledger, once it is over."""
        first_audio_ms: int | None = None
        if self._first_talked_s is not None and self._first_sent_s is not None:
            first_audio_ms = _ms(self._first_talked_s - self._first_sent_s)
        received_ms = _ms(duration_s(self.received_bytes - len(self._odd)))
        return UtteranceReport(
            id=self.id,
            outcome=self.outcome.result(),
            source=self.source,
            text=self.text,
            duration_ms=received_ms if self.full_duration_s is None else _ms(self.full_duration_s),
            received_ms=received_ms,
            sent_ms=_ms(duration_s(self.sent_bytes)),
            played_ms=_ms(self._talked_s),
            heard_ms=_ms(min(self._heard_before_s, duration_s(self.sent_bytes))),
            gaps=self._gaps,
            first_audio_ms=first_audio_ms,
            started_at=self._began_at,
            ended_at=datetime.now(UTC),
            owner=owner,
            generation=generation,
            failure=self.failure,
        )

    # ----------------------------------------------------------------- inside

    @property
    def _open_segment(self) -> _Segment | None:
        newest = self._segments[-1] if self._segments else None
        return None if newest is None or newest.end_sent else newest

    def _named(self, segment_id: str) -> _Segment | None:
        return next((one for one in self._segments if one.id == segment_id), None)

    def _when_starved(self, now_s: float) -> Step:
        """All is sent, and not all has come."""
        patience_s, failure = self._patience(now_s)
        if patience_s <= 0:
            return AbandonUtterance(failure)
        segment = self._open_segment
        if segment is None:
            return WaitUntil(patience_s)
        lead_s = segment.pacer.lead_s(now_s)
        if lead_s > 0:
            return WaitUntil(min(patience_s, lead_s + _INSTANT_S))
        if segment.talking_since_s is None and self._dry_since_s(now_s) < UNHEARD_PATIENCE_S:
            return WaitUntil(min(patience_s, UNHEARD_PATIENCE_S))  # talking wakes
        if self._silence is None:
            self._silence = (now_s, self.sent_bytes)
        rest_in_s = self._silence[0] + REST_AFTER_S - now_s
        return WaitUntil(min(patience_s, rest_in_s)) if rest_in_s > _INSTANT_S else NothingToSend()

    def _dry_since_s(self, now_s: float) -> float:
        """How long ago the avatar must have been done with what was sent, if it began in time."""
        if self._unheard_since_s is None:
            self._unheard_since_s = now_s
        return now_s - self._unheard_since_s

    def _patience(self, now_s: float) -> tuple[float, Failure]:
        """For how long more is waited for, and what is wrong if it does not come."""
        if self._detached_at_s is not None:
            failure = Failure(
                type="SpeakerGone",
                message=f"the speaker's connection broke, and was not made again within"
                f" {RESUME_PATIENCE_S:g} s",
            )
            return self._detached_at_s + RESUME_PATIENCE_S - now_s, failure
        if self._last_written_s is None:
            self._last_written_s = now_s
        failure = Failure(
            type="SpeakerStalled",
            message=f"no speech and no end came for {STALL_PATIENCE_S:g} s",
        )
        return self._last_written_s + STALL_PATIENCE_S - now_s, failure

    def _end_silence(self, now_s: float) -> None:
        silence, self._silence = self._silence, None
        if silence is None:
            return
        since_s, position = silence
        if now_s - since_s >= _SHORTEST_GAP_S and len(self._gaps) < MAX_GAPS:
            at_ms = _ms(duration_s(position))
            self._gaps.append(SpeechGap(at_ms=at_ms, duration_ms=_ms(now_s - since_s)))

    def _confirm(self, acknowledged: int) -> None:
        while self._unconfirmed and self._unconfirmed[0][0] <= acknowledged:
            self._unconfirmed.popleft()

    def _settle(self, segment: _Segment, now_s: float, *, whole: bool) -> None:
        segment.silent = segment.end_sent = True
        sent_s = segment.pacer.sent_s
        self._heard_before_s += sent_s if whole else segment.pacer.heard_s(now_s)
        if segment.talking_since_s is not None:
            self._talked_s += max(0.0, now_s - segment.talking_since_s)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
