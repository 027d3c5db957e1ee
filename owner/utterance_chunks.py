"""One utterance on its way to the avatar: its speech buffer, what to send next, and its outcome.

Speech comes in by `write` and goes out by `next_step`, which says what the playout does now. Holds
no socket. Times are seconds of one monotonic clock, given by the caller.

Theory of operation
-------------------
Three objects share the work. `SpeechBuffer` holds PCM between its writer and the wire. `Playback`
(its own module) estimates and records what the avatar has played. `Utterance` joins them: it
decides the next step, wakes the playout when that step may have changed, and fixes one outcome.

::

    writer ── write ──► chunker ──► ready ──► on the wire ──► confirmed
                        │             ▲            │
                        │             └────────────┘ sent again after a lost socket
                        └ flushed when the writer pauses, or bytes waited too long

    time     ──────────────────────────────────────────────────────────────────────►
    received ███████████████               ██████ finish()
    sent      ▐0.4▌▐1.0▌▐flush▌            ▐flush▌ EndSegment(last=True)
    played        ░░░░░░░░░░░░░░░░░░           ░░░░░░
                  │                 │  │       │     │
                  │                 │  │       │     └ on_playback_finished: COMPLETED
                  │                 │  │       └ on_playback_started("id~2"): the gap ends
                  │                 │  └ EndSegment(last=False), 0.3 s later
                  │                 └ everything sent is played: a gap begins
                  └ on_playback_started("id")

- *Chunks.* The first one is short, so that the avatar starts early; later ones last a second. A
  writer in real time fills a chunk too slowly, so a pause or a waiting time flushes what is there.
- *Lead.* LiveAvatar queues without limit and gives no back-pressure. A chunk waits until no more
  than `max_lead_s` would be ahead of playback: that much is what an interrupt discards at most.
- *Segments.* When the writer stalls and the avatar has played everything, the open segment ends
  after 0.3 s, so that the avatar regains its pose instead of starving. More speech opens the next
  segment, named ``id~2``, and the silence between them is recorded as a gap. LiveAvatar sees two
  utterances; the report and the speakers see one.
- *End.* `finish` says that no more comes in. `end_sent` says that ``speak_end`` of the last segment
  is on the wire. The outcome comes later, from LiveAvatar's report that playback finished.
- *Lost socket.* LiveAvatar keeps what it has confirmed and plays on. Chunks without a confirmation
  go back to the front of the buffer, and the end is sent again. A service that never confirms is
  believed to have taken everything.
- *Lost writer.* A speaker whose connection broke has `RESUME_TIMEOUT_S` to return and goes on from
  `received_bytes`. A connected writer that writes nothing has `STALL_TIMEOUT_S`. After either the
  utterance is lost, with a failure that names which.
- *Outcome.* The first one stays: completed, interrupted, cancelled, lost or rejected. From then on
  the buffer takes nothing, and `settle` closes the account of what LiveAvatar did not report.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final, Literal

from avatar_sessions.contract.reports import Failure, UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite import SAMPLE_BYTES, Chunker, duration_s
from owner.playback_position import EarlierPart, Playback, to_ms

STALL_TIMEOUT_S: Final = 30.0
"""How long an open utterance may receive nothing while its speaker is connected."""
RESUME_TIMEOUT_S: Final = 10.0
"""How long an utterance waits for a speaker whose connection broke."""
_INSTANT_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Send this chunk, then call `Utterance.on_chunk_sent`."""

    chunk: bytes


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Nothing to do for so many seconds, or until `Utterance.pause` is woken."""

    seconds: float


@dataclass(frozen=True, slots=True)
class EndSegment:
    """Send ``speak_end`` for the open segment."""

    last: bool
    """True: everything was sent, and the utterance ends with it. False: its writer has stalled,
    and the avatar is to regain its pose."""


@dataclass(frozen=True, slots=True)
class AbandonUtterance:
    """End the utterance as lost: its writer does not deliver the rest."""

    failure: Failure


Step = SendChunk | WaitFor | EndSegment | AbandonUtterance


class SpeechBuffer:
    """The PCM of one utterance between its writer and the wire, cut into chunks.

    Attributes:
        received_bytes: position of the writer, from the utterance's beginning.
        sent_bytes: position of what is on the wire, from the utterance's beginning.
        finished: no more will come in.
    """

    def __init__(self, offset_bytes: int = 0) -> None:
        self.received_bytes = offset_bytes
        self.sent_bytes = offset_bytes
        self.finished = False
        self._chunker = Chunker()
        self._ready: deque[bytes] = deque()
        self._half_sample = b""
        # Chunks that LiveAvatar has not confirmed, each with its number on the connection.
        self._unconfirmed: deque[tuple[int, bytes]] = deque()

    def write(self, pcm: bytes, now_s: float) -> None:
        """Take PCM in; a piece may cut a sample in half."""
        self.received_bytes += len(pcm)
        if self._half_sample or len(pcm) % SAMPLE_BYTES:
            pcm = self._half_sample + pcm
            whole = len(pcm) - len(pcm) % SAMPLE_BYTES
            pcm, self._half_sample = pcm[:whole], pcm[whole:]
        self._ready.extend(self._chunker.push(pcm, now_s))

    def rewind_to_sample(self) -> int:
        """Drop half a sample left by a writer that is gone; returns where the next one goes on."""
        self.received_bytes = self.whole_bytes
        self._half_sample = b""
        return self.received_bytes

    @property
    def whole_bytes(self) -> int:
        """What was received in whole samples."""
        return self.received_bytes - len(self._half_sample)

    @property
    def unsent_bytes(self) -> int:
        """What was received and not sent."""
        return sum(map(len, self._ready)) + self._chunker.pending_bytes

    @property
    def has_chunk(self) -> bool:
        """Whether a chunk is ready to be sent."""
        return bool(self._ready)

    @property
    def flush_due_s(self) -> float | None:
        """When a chunk is made of what is there, full or not; None if nothing waits."""
        return self._chunker.flush_due_s()

    def next_chunk(self, now_s: float) -> bytes | None:
        """The chunk to send next, which stays here until `on_sent`; None if there is none yet."""
        due_s = self.flush_due_s
        due = due_s is not None and now_s >= due_s - _INSTANT_S
        if not self._ready and (self.finished or due):
            self._ready.extend(self._chunker.flush())
        return self._ready[0] if self._ready else None

    def on_sent(self, chunk: bytes, *, number: int, acknowledged: int) -> None:
        """The chunk that `next_chunk` gave is on the wire; see `Utterance.on_chunk_sent`."""
        if self._ready and self._ready[0] is chunk:
            self._ready.popleft()
        self.sent_bytes += len(chunk)
        self._confirm(acknowledged)
        self._unconfirmed.append((number, chunk))

    def take_unconfirmed(self, acknowledged: int) -> list[bytes]:
        """The chunks that LiveAvatar did not confirm on a connection that is gone; forgets them."""
        self._confirm(acknowledged)
        chunks = [chunk for _, chunk in self._unconfirmed]
        self._unconfirmed.clear()
        return chunks

    def send_again(self, chunks: list[bytes]) -> None:
        """Put chunks that were sent back to the front."""
        self._ready.extendleft(reversed(chunks))
        self.sent_bytes -= sum(map(len, chunks))

    def discard(self) -> None:
        """Drop the chunks that are ready."""
        self._ready.clear()

    def _confirm(self, acknowledged: int) -> None:
        while self._unconfirmed and self._unconfirmed[0][0] <= acknowledged:
            self._unconfirmed.popleft()


class _WakeOn(Enum):
    """Which input the playout waits for."""

    NOTHING = auto()  # it waits for time to pass
    CHUNK = auto()  # a full chunk
    ANYTHING = auto()


class Utterance:
    """An utterance from its first byte to its report.

    Attributes:
        playback: what the avatar has played of it.
        outcome: done when nothing more of it is to be sent.
        end_sent: all of it is on the wire, with its end.
        writer: the speaker's connection that may write; an earlier one is ignored.
        began_at_s: when it was requested here, by the process's monotonic clock.
        cut_in_band_at: when a speaker interrupted it.
        adopt_pending: an earlier owner has begun it, and this owner's socket has not adopted it.
        full_duration_s: how long it is as a whole; None until its end is received.
    """

    def __init__(
        self,
        utterance_id: str,
        *,
        now_s: float,
        max_lead_s: float,
        sequence: int = 0,
        source: Literal["clip", "live"] = "clip",
        text: str | None = None,
        earlier: EarlierPart | None = None,
    ) -> None:
        """Make one that has received nothing yet.

        Args:
            utterance_id: also LiveAvatar's ``event_id`` for it.
            now_s: now.
            max_lead_s: how far sending may run ahead of playback.
            sequence: position among the session's clips, from 1; 0 for live speech.
            source: where it comes from.
            text: its words, for the ledger.
            earlier: what owners before this one sent of it.
        """
        earlier = earlier or EarlierPart()
        self._loop = asyncio.get_running_loop()
        self.id = utterance_id
        self.sequence = sequence
        self.source = source
        self.text = text
        self.playback = Playback(utterance_id, max_lead_s=max_lead_s, now_s=now_s, earlier=earlier)
        self.outcome: asyncio.Future[UtteranceOutcome] = self._loop.create_future()
        self.failure: Failure | None = None
        self.end_sent = False
        self.writer: object | None = None
        self.full_duration_s: float | None = None
        self.cut_in_band_at: datetime | None = None
        self.adopt_pending = self.playback.segment_is_open
        self.began_at_s = now_s
        self._began_at = datetime.now(UTC)
        self._buffer = SpeechBuffer(earlier.sent_bytes)
        self._earlier_bytes = earlier.sent_bytes
        self._ended_at_s: float | None = None
        self._last_written_s: float | None = None
        self._detached_at_s: float | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wake_on = _WakeOn.ANYTHING
        self._room = asyncio.Event()

    # ----------------------------------------------------------------- input

    def write(self, pcm: bytes, now_s: float) -> None:
        """Take PCM in; a piece may cut a sample in half. Ignored once over or finished."""
        if self.over or self.finished or not pcm:
            return
        self._last_written_s = now_s
        self._buffer.write(pcm, now_s)
        wake_on_chunk = self._wake_on is _WakeOn.CHUNK and self._buffer.has_chunk
        if self._wake_on is _WakeOn.ANYTHING or wake_on_chunk:
            self.wake()

    def finish(self) -> None:
        """No more will come in: what is there is sent, and the end after it."""
        if not self.finished:
            self._buffer.finished = True
            self.wake()

    def detach_writer(self, now_s: float) -> None:
        """Its speaker's connection is gone; the speaker may come back."""
        self._detached_at_s = now_s
        self.wake()

    def reattach_writer(self, now_s: float) -> int:
        """Its speaker is back: returns the position to go on from, in whole samples."""
        self._detached_at_s, self._last_written_s = None, now_s
        position_bytes = self._buffer.rewind_to_sample()
        self.wake()
        return position_bytes

    async def wait_for_room(self, limit_bytes: int) -> None:
        """Wait until no more than so many bytes wait to be sent, or the utterance is over."""
        while self.unsent_bytes > limit_bytes and not self.over:
            self._room.clear()
            await self._room.wait()

    @property
    def received_bytes(self) -> int:
        """What was received, from the utterance's beginning."""
        return self._buffer.received_bytes

    @property
    def sent_bytes(self) -> int:
        """What is on the wire, from the utterance's beginning, by this owner or an earlier one."""
        return self._buffer.sent_bytes

    @property
    def unsent_bytes(self) -> int:
        """What was received and not sent."""
        return self._buffer.unsent_bytes

    @property
    def finished(self) -> bool:
        """Whether no more will come in."""
        return self._buffer.finished

    @property
    def has_earlier_owner(self) -> bool:
        """An owner before this one has sent some of it: older than all that was asked for here."""
        return self._earlier_bytes > 0

    # ---------------------------------------------------------------- output

    def next_step(self, now_s: float) -> Step:
        """What the playout does now."""
        chunk = self._buffer.next_chunk(now_s)
        if chunk is not None:
            self._wake_on = _WakeOn.NOTHING
            wait_s = self.playback.send_wait_s(now_s, len(chunk))
            return WaitFor(wait_s) if wait_s > 0 else SendChunk(chunk)
        if self.finished:
            return EndSegment(last=True)
        flush_due_s = self._buffer.flush_due_s
        if flush_due_s is not None:
            self._wake_on = _WakeOn.CHUNK
            return WaitFor(max(_INSTANT_S, flush_due_s - now_s))
        self._wake_on = _WakeOn.ANYTHING
        return self._step_without_speech(now_s)

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
        """Let the playout ask for the next step."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

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
            number: how many chunks were sent on this connection, including this one.
            acknowledged: how many of them LiveAvatar has acknowledged.
            after_s: how long earlier utterances still play before this one starts.
        """
        self.playback.on_chunk_sent(len(chunk), now_s, after_s=after_s)
        self._buffer.on_sent(chunk, number=number, acknowledged=acknowledged)
        self._room.set()

    def on_disconnected(self, acknowledged: int, *, acknowledges: bool) -> None:
        """The socket is gone, another may come: chunks without a confirmation are sent again.

        Args:
            acknowledged: chunks that LiveAvatar confirmed on the connection that is gone.
            acknowledges: whether it confirms chunks at all; one that never does is believed to
                have taken everything.
        """
        lost = self._buffer.take_unconfirmed(acknowledged)
        if self.over:
            return
        if self.playback.reopen():
            self.end_sent = False
        if acknowledges:
            self._buffer.send_again(lost)
            self.playback.on_chunks_lost(sum(map(len, lost)))

    # -------------------------------------------------------------- playback

    def on_playback_started(self, segment_id: str, now_s: float) -> bool:
        """LiveAvatar reported the start of a segment; returns whether it is the first one here."""
        first = not self.playback.started
        if not self.playback.on_started(segment_id, now_s):
            return False
        self.wake()
        return first

    def on_playback_finished(self, segment_id: str, *, interrupted: bool, now_s: float) -> None:
        """LiveAvatar reported the end of a segment."""
        if not self.playback.on_finished(segment_id, now_s, cut=interrupted or self.over):
            return
        if interrupted:
            self.end(UtteranceOutcome.INTERRUPTED, now_s)
        elif self.end_sent and self.playback.all_finished:
            self.end(UtteranceOutcome.COMPLETED, now_s)
        self.wake()

    def heard_s(self, now_s: float) -> float:
        """Seconds of it heard by now, according to the clock."""
        return self.playback.heard_s(now_s)

    def played_bytes(self, now_s: float) -> int:
        """How much of what was sent is heard for certain; see `Playback.heard_bytes`."""
        return min(self.sent_bytes, self.playback.heard_bytes(now_s))

    def unplayed_s(self, now_s: float) -> float:
        """Seconds of it that were sent and are not played, according to the clock."""
        return self.playback.unplayed_s(now_s)

    # --------------------------------------------------------------- outcome

    @property
    def over(self) -> bool:
        """Nothing more of it is to be sent."""
        return self.outcome.done()

    def needs_no_report(self, now_s: float) -> bool:
        """Whether LiveAvatar has no playback to report, once the end is sent.

        Nothing is being played, or an earlier owner sent all of it and got the report.
        """
        sent_earlier = self._earlier_bytes == self.sent_bytes > 0
        return self.playback.all_finished or (sent_earlier and self.unplayed_s(now_s) <= 0)

    def end(self, outcome: UtteranceOutcome, now_s: float, failure: Failure | None = None) -> None:
        """Fix the outcome; the first one stays."""
        if self.over:
            return
        self._ended_at_s = now_s
        self.failure = failure
        self.outcome.set_result(outcome)
        self._buffer.discard()
        self.wake()
        self._room.set()

    def settle(self, now_s: float) -> None:
        """Close the account of what LiveAvatar has not reported and will not report any more."""
        outcome = self.outcome.result() if self.over else None
        self.playback.settle(now_s, outcome, self._ended_at_s)

    def report(self, *, owner: str | None = None, generation: int = 0) -> UtteranceReport:
        """Its entry in the session's ledger, once it is over."""
        playback = self.playback
        received_ms = to_ms(duration_s(self._buffer.whole_bytes))
        full_s, first_audio_s = self.full_duration_s, playback.first_audio_s
        return UtteranceReport(
            id=self.id,
            outcome=self.outcome.result(),
            source=self.source,
            text=self.text,
            duration_ms=received_ms if full_s is None else to_ms(full_s),
            received_ms=received_ms,
            sent_ms=to_ms(duration_s(self.sent_bytes)),
            played_ms=to_ms(playback.played_s),
            heard_ms=to_ms(min(playback.settled_heard_s, duration_s(self.sent_bytes))),
            gaps=playback.gaps,
            first_audio_ms=None if first_audio_s is None else to_ms(first_audio_s),
            started_at=self._began_at,
            ended_at=datetime.now(UTC),
            owner=owner,
            generation=generation,
            failure=self.failure,
        )

    # --------------------------------------------------------------- private

    def _step_without_speech(self, now_s: float) -> Step:
        """The next step when all is sent and not all has come in."""
        patience_s, failure = self._patience(now_s)
        if patience_s <= 0:
            return AbandonUtterance(failure)
        due_s = self.playback.segment_end_due_s(now_s, self.sent_bytes)
        if due_s is None:
            return WaitFor(patience_s)
        return WaitFor(min(patience_s, due_s)) if due_s > 0 else EndSegment(last=False)

    def _patience(self, now_s: float) -> tuple[float, Failure]:
        """How many seconds the writer has left, and the failure if it writes nothing by then."""
        if self._detached_at_s is not None:
            failure = Failure(
                type="SpeakerGone",
                message=f"the speaker's connection broke, and was not made again within"
                f" {RESUME_TIMEOUT_S:g} s",
            )
            return self._detached_at_s + RESUME_TIMEOUT_S - now_s, failure
        if self._last_written_s is None:
            self._last_written_s = now_s
        failure = Failure(
            type="SpeakerStalled",
            message=f"no speech and no end came for {STALL_TIMEOUT_S:g} s",
        )
        return self._last_written_s + STALL_TIMEOUT_S - now_s, failure
