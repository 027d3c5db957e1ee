"""Plays a session's utterances one at a time: pacing, interrupts, waiting for playback to finish.

Moves speech from `owner.utterance_chunks.Utterance` to a `LiteConnection`, and survives the loss
of that connection. Knows neither Temporal nor the ingress; a `PlayoutListener` is notified.

Theory of operation
-------------------
An utterance is queued when it is requested, so that an interrupt finds it before its turn. `play`
is called for each; a lock gives them turns. One task at a time is in its turn and asks its
utterance for the next step: wait, send a chunk, end the segment, abandon. LiveAvatar plays behind
what is sent, so playing overlaps sending: `_playing` holds one utterance that is being sent and
perhaps one whose rest is still being played.

::

    time        ────────────────────────────────────────────────────────────────────►
    A           [ turn: ███ speak_end · · · ][ wait ] report
    B           queued · · · · · · · · · · · [ turn: ███ speak_end · · · ][ wait ] report
    LiveAvatar      ░░░░░░░░░░░░░ A ░░░░░░░░░░░░░░░░░░░░░░░░░░ B ░░░░░░░░░░░░░
                                             │      │                            │
                                             │      └ on_playback_finished(A)    └ … (B)
                                             └ OVERLAP_S before A's playback ends

- *Turn.* It ends `OVERLAP_S` before the avatar has played what was sent, so that the next utterance
  follows without a pause. Outside its turn an utterance waits for LiveAvatar's report that playback
  finished; without one it completes `REPORT_MARGIN_S` after its computed end.
- *Interrupt.* Three things in this order: utterances that are meant get the outcome
  ``interrupted`` (`discard`), ``agent.interrupt`` goes on the wire, and nothing more is sent until
  LiveAvatar answers ``audio_buffer_cleared`` or `CLEAR_TIMEOUT_S` has passed: speech sent before
  the answer could be cleared with the old. Interrupts are always sent, because LiveAvatar's reports
  of what it plays may be missing.
- *What is meant.* Clips carry a sequence number, and an interrupt names the last one it means, so
  commands that overtake each other decide the same. Live speech has no number: what was begun
  before the interrupt was requested is meant, and all that an earlier owner had begun.
- *One writer at a time.* `send_lock` keeps the order of chunks and commands. Its holder checks
  again that the step still applies, because an interrupt may have come while it waited.
- *Lost socket.* `on_disconnected` rewinds each utterance to what LiveAvatar confirmed. Utterances
  wait, and no outcome changes. `on_connected` adopts the segments that LiveAvatar still has,
  interrupts if one of them belongs to an utterance that was discarded meanwhile, and lets sending
  go on.
- *End of the process's part.* `retire` gives no more turns and waits for what is being played;
  `close` ends every utterance with one outcome, also those that are queued later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from avatar_sessions.contract.reports import Failure
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite import ConnectionFailed, LiteConnection, LiteError
from owner.utterance_chunks import AbandonUtterance, EndSegment, SendChunk, Utterance, WaitFor

logger = logging.getLogger(__name__)

CLEAR_TIMEOUT_S: Final = 1.0
"""How long to wait for LiveAvatar's answer to an interrupt (188 ms seen live)."""
REPORT_MARGIN_S: Final = 3.0
"""How long past its computed end an utterance waits for LiveAvatar to report that it finished."""
OVERLAP_S: Final = 0.5
"""How long before the end of one utterance's playback the next is sent: no pause between."""


class PlayoutListener(Protocol):
    """Notified of the progress of speech."""

    def on_progress(self, utterance: Utterance) -> None:
        """A chunk of the utterance is on the wire."""

    def on_playback_started(self, utterance: Utterance) -> None:
        """The avatar has begun to speak the utterance."""

    def on_interrupt_sent(self) -> None:
        """An interrupt is on the wire; it resets the avatar's pose (LITE events page)."""


class Playout:
    """Plays utterances one after the other.

    Attributes:
        connection: where speech goes; None while there is no socket.
        send_lock: held by each sender, so that commands and speech keep their order.
        last_sent_s: when something was last sent.
    """

    def __init__(self, listener: PlayoutListener) -> None:
        self.connection: LiteConnection | None = None
        self.send_lock = asyncio.Lock()
        self.last_sent_s = time.monotonic()
        self._listener = listener
        self._turn = asyncio.Lock()
        self._waiting: list[Utterance] = []
        self._playing: list[Utterance] = []
        self._buffer_cleared = asyncio.Event()
        self._buffer_cleared.set()
        self._connected = asyncio.Event()
        self._closed_with: UtteranceOutcome | None = None
        self._retired = False  # what waits is the next generation's to play
        self._acknowledges = True  # False once the avatar played chunks without acknowledging any
        self._acknowledged = False  # True once a chunk was
        # The segment that an utterance left open at LiveAvatar when it ended without a socket.
        self._left_open: str | None = None

    @property
    def playing(self) -> Utterance | None:
        """What the avatar plays, or is about to."""
        return self._playing[0] if self._playing else None

    @property
    def active(self) -> Utterance | None:
        """What is being played and not over."""
        return next((one for one in self._playing if not one.over), None)

    @property
    def utterances(self) -> list[Utterance]:
        """All that is playing or queued, in order."""
        return [*self._playing, *self._waiting]

    # -------------------------------------------------------------- connection

    async def on_connected(self, connection: LiteConnection, *, interrupt: bool) -> None:
        """There is a socket: adopt the segments that LiveAvatar has, and let speech go on.

        Args:
            connection: the socket; it is connected.
            interrupt: one was requested while there was no socket.

        Raises:
            LiteError: it is gone again.
        """
        async with self.send_lock:
            left = [] if self._left_open is None else [self._left_open]
            unfinished = [
                name for one in self._playing for name in one.playback.unfinished_segments
            ]
            for segment_id in left + unfinished:
                if connection.open_utterance is not None:
                    await connection.speak_end(connection.open_utterance)
                connection.adopt(segment_id)
            # LiveAvatar must drop what was discarded meanwhile; the rest is ended by its own turn.
            going_on = any(not utterance.over for utterance in self._playing)
            discarded = left or any(
                one.over and one.playback.unfinished_segments for one in self._playing
            )
            if interrupt or (discarded and not going_on):
                await self._interrupt(connection, None)
            self._left_open = None
        self.connection = connection
        self._connected.set()
        for utterance in self._playing:
            utterance.wake()

    def on_disconnected(self, connection: LiteConnection) -> None:
        """The socket is gone. LiveAvatar plays on what it confirmed; the rest is sent again."""
        self.connection = None
        self._connected.clear()
        self._buffer_cleared.set()
        self._acknowledged |= connection.chunks_acked > 0
        for utterance in self._playing:
            utterance.playback.last_contact_s = connection.last_heard_s
            utterance.on_disconnected(
                connection.chunks_acked, acknowledges=self._acknowledges or self._acknowledged
            )

    def close(self, outcome: UtteranceOutcome) -> None:
        """Play nothing more, and nothing that is queued later."""
        self._closed_with = self._closed_with or outcome
        now_s = time.monotonic()
        for utterance in self.utterances:
            utterance.end(outcome, now_s)
            utterance.settle(now_s)
        self._buffer_cleared.set()
        self._connected.set()

    def sync_clock(self) -> None:
        """Take the playback clock for certain up to now, if there is a socket."""
        if self.connection is not None:
            for utterance in self._playing:
                utterance.playback.last_contact_s = time.monotonic()

    async def retire(self, timeout_s: float) -> None:
        """Begin nothing more, and wait until what is playing has finished, or for so long.

        What is queued stays queued, until it is discarded or the playout is closed.
        """
        self._retired = True
        outcomes = {one.outcome for one in self._playing if not one.over}
        if outcomes:
            await asyncio.wait(outcomes, timeout=timeout_s)

    # ----------------------------------------------------------------- playing

    def queue(self, utterance: Utterance) -> None:
        """Queue an utterance for `play`: from now on an interrupt finds it."""
        self._waiting.append(utterance)
        if self._closed_with is not None:
            utterance.end(self._closed_with, time.monotonic())

    async def play(self, utterance: Utterance) -> None:
        """Play a queued utterance when its turn has come; returns when it is over."""
        try:
            async with self._turn:
                if self._retired:
                    await asyncio.wait({utterance.outcome})
                self._waiting.remove(utterance)
                if utterance.over:
                    return
                self._playing.append(utterance)
                try:
                    await self._feed(utterance)
                    while not await self._wait_for_turn_end(utterance):
                        await self._feed(utterance)  # the socket was lost with its end
                except BaseException:
                    await self._abandon(utterance)
                    raise
            while not await self._wait_for_playout(utterance):
                await self._feed(utterance)
        finally:
            now_s = time.monotonic()
            utterance.end(UtteranceOutcome.CANCELLED, now_s)  # unless it is over
            if self.connection is None and utterance.playback.segment_is_open:
                self._left_open = utterance.playback.segment_id
            utterance.settle(now_s)
            for queue in (self._waiting, self._playing):
                if utterance in queue:
                    queue.remove(utterance)

    async def _feed(self, utterance: Utterance) -> None:
        """Send an utterance up to its end, or until it is over."""
        while not utterance.over:
            connection = await self._usable_connection(utterance)
            if connection is None:
                continue  # it is over
            step = utterance.next_step(time.monotonic())
            match step:
                case WaitFor(seconds=seconds):
                    await utterance.pause(seconds)
                case AbandonUtterance(failure=failure):
                    utterance.end(UtteranceOutcome.LOST, time.monotonic(), failure)
                case SendChunk() | EndSegment():
                    try:
                        await self._send_step(utterance, step, connection)
                    except ConnectionFailed as error:
                        await self._wait_for_disconnect(connection, error)
                    except LiteError as error:
                        logger.error("utterance %s cannot be sent: %s", utterance.id, error)
                        failure = Failure(type=type(error).__name__, message=str(error))
                        utterance.end(UtteranceOutcome.LOST, time.monotonic(), failure)
                    if utterance.end_sent:
                        return
        await self._close_segment(utterance)

    async def _usable_connection(self, utterance: Utterance) -> LiteConnection | None:
        """The socket, once it is there and has answered the last interrupt.

        None if the utterance is over before that.
        """
        if not self._buffer_cleared.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._buffer_cleared.wait(), CLEAR_TIMEOUT_S)
            self._buffer_cleared.set()
        if self.connection is None:
            connected = asyncio.create_task(self._connected.wait(), name="socket is back")
            first: set[asyncio.Future[Any]] = {connected, utterance.outcome}
            try:
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            finally:
                connected.cancel()
        return self.connection

    async def _send_step(
        self,
        utterance: Utterance,
        step: SendChunk | EndSegment,
        connection: LiteConnection,
    ) -> None:
        async with self.send_lock:
            if utterance.over or connection is not self.connection:
                return
            playback = utterance.playback
            if utterance.adopt_pending:
                connection.adopt(playback.segment_id)
                utterance.adopt_pending = False
            if isinstance(step, SendChunk):
                await connection.speak(step.chunk, playback.segment_id)
                playback.last_contact_s = connection.last_heard_s
                now_s = time.monotonic()
                utterance.on_chunk_sent(
                    step.chunk,
                    now_s,
                    number=connection.chunks_sent,
                    acknowledged=connection.chunks_acked,
                    after_s=self._unplayed_before_s(utterance, now_s),
                )
                self._listener.on_progress(utterance)
            elif playback.segment_is_open:
                if connection.open_utterance == playback.segment_id:
                    await connection.speak_end(playback.segment_id)
                playback.on_segment_end_sent()
            self.last_sent_s = time.monotonic()
            if isinstance(step, EndSegment) and step.last:
                utterance.end_sent = True
                if utterance.needs_no_report(time.monotonic()):
                    utterance.end(UtteranceOutcome.COMPLETED, time.monotonic())

    async def _wait_for_disconnect(self, connection: LiteConnection, error: LiteError) -> None:
        """A send failed: wait for the reader to report the loss. If it does not, that is a bug."""
        logger.info("sending failed: %s", error)
        for _ in range(100):
            if connection is not self.connection:
                return
            await asyncio.sleep(0.05)
        raise error

    def _unplayed_before_s(self, utterance: Utterance, now_s: float) -> float:
        before = self._playing[: self._playing.index(utterance)]
        return sum(one.unplayed_s(now_s) for one in before)

    async def _wait_for_turn_end(self, utterance: Utterance) -> bool:
        """Keep the turn until the next utterance may begin; False if the end must be sent again."""
        while not utterance.over:
            if not utterance.end_sent:
                return False
            left_s = utterance.unplayed_s(time.monotonic()) - OVERLAP_S
            if left_s <= 0:
                break
            await utterance.pause(left_s)
        return True

    async def _wait_for_playout(self, utterance: Utterance) -> bool:
        """Wait until the utterance has been played, or its interrupt answered.

        Returns:
            False if its end must be sent again, because it was lost with the socket.
        """
        while not utterance.over:
            if not utterance.end_sent:
                return False
            left_s = utterance.unplayed_s(time.monotonic())
            give_up_s = time.monotonic() + left_s + REPORT_MARGIN_S
            await utterance.pause(left_s + REPORT_MARGIN_S)
            late = time.monotonic() >= give_up_s and utterance.unplayed_s(time.monotonic()) <= 0
            if late and utterance.end_sent:
                logger.warning("LiveAvatar did not report the end of utterance %s", utterance.id)
                utterance.end(UtteranceOutcome.COMPLETED, time.monotonic())
        if utterance.outcome.result() is UtteranceOutcome.INTERRUPTED:
            give_up_s = time.monotonic() + CLEAR_TIMEOUT_S
            playback = utterance.playback
            while not playback.all_finished and (left_s := give_up_s - time.monotonic()) > 0:
                await utterance.pause(left_s)
        return True

    async def _close_segment(self, utterance: Utterance) -> None:
        """Leave no segment open at LiveAvatar: it would take the next one for its rest."""
        connection = self.connection
        if connection is None:
            return
        with contextlib.suppress(LiteError):  # the segment is gone with the socket
            async with self.send_lock:
                if connection.open_utterance == utterance.playback.segment_id:
                    await self._interrupt(connection, None)

    async def _abandon(self, utterance: Utterance) -> None:
        utterance.end(UtteranceOutcome.CANCELLED, time.monotonic())
        await self._close_segment(utterance)

    # --------------------------------------------------------------- interrupts

    def discard(
        self,
        up_to_sequence: int | None,
        outcome: UtteranceOutcome,
        asked_at_s: float | None = None,
    ) -> None:
        """End what is playing or queued, without a word to LiveAvatar.

        Args:
            up_to_sequence: clips with a higher sequence number are spared; None: no clip is.
            outcome: the outcome of what is ended.
            asked_at_s: live speech begun later is spared, unless an earlier owner has sent some
                of it; None: no live speech is.
        """
        now_s = time.monotonic()
        for utterance in self.utterances:
            if utterance.source == "live":
                meant = (
                    asked_at_s is None
                    or utterance.began_at_s <= asked_at_s
                    or utterance.has_earlier_owner
                )
            else:
                meant = up_to_sequence is None or utterance.sequence <= up_to_sequence
            if meant:
                utterance.end(outcome, now_s)

    def discard_in_band(self) -> None:
        """End all that is playing or queued, because a speaker interrupts."""
        now = datetime.now(UTC)
        for utterance in self.utterances:
            if not utterance.over:
                utterance.cut_in_band_at = now
        self.discard(None, UtteranceOutcome.INTERRUPTED)

    async def interrupt(
        self,
        up_to_sequence: int | None,
        event_id: str | None = None,
        *,
        discarded: Utterance | None = None,
        asked_at_s: float | None = None,
    ) -> tuple[str | None, float]:
        """Discard speech and send an interrupt, always: LiveAvatar's events may be missing.

        Args:
            up_to_sequence: clips with a higher sequence number are not meant; None: all are.
            event_id: the interrupt's own id.
            discarded: what was playing and was discarded already on behalf of this interrupt.
            asked_at_s: live speech begun later is not meant; None: all is.

        Returns:
            The id of what was playing, None for nothing, and how many seconds of it had been heard
            when the interrupt was on the wire.

        Raises:
            LiteError: the socket is gone.
        """
        active = discarded or self.active
        self.discard(up_to_sequence, UtteranceOutcome.INTERRUPTED, asked_at_s)
        connection = self.connection
        assert connection is not None, "the session checks the connection before it interrupts"
        async with self.send_lock:
            # What began while this waited is discarded too, unless it is a clip requested later.
            active = active or self.active
            self.discard(up_to_sequence, UtteranceOutcome.INTERRUPTED, asked_at_s)
            if any(not utterance.over for utterance in self._playing):
                return None, 0.0  # what was meant is over already; a new utterance goes on
            await self._interrupt(connection, event_id)
            heard_s = 0.0 if active is None else active.heard_s(time.monotonic())
        return (None if active is None else active.id), heard_s

    async def _interrupt(self, connection: LiteConnection, event_id: str | None) -> None:
        if self._playing:
            # Speech sent before the answer could be cleared together with the old.
            self._buffer_cleared.clear()
        await connection.interrupt(event_id)
        self._listener.on_interrupt_sent()
        self.last_sent_s = time.monotonic()

    # ------------------------------------------------------------------ events

    def on_playback_started(self, segment_id: str) -> None:
        """LiveAvatar reported the start of a segment."""
        connection = self.connection
        if connection is not None and not connection.chunks_acked and not self._acknowledged:
            self._acknowledges = False
        for utterance in self._playing:
            if utterance.on_playback_started(segment_id, time.monotonic()):
                self._listener.on_playback_started(utterance)

    def on_playback_finished(self, segment_id: str, *, interrupted: bool) -> None:
        """LiveAvatar reported the end of a segment."""
        for utterance in self._playing:
            if utterance.playback.owns(segment_id):
                now_s = time.monotonic()
                utterance.on_playback_finished(segment_id, interrupted=interrupted, now_s=now_s)

    def on_buffer_cleared(self) -> None:
        """LiveAvatar has answered the interrupt: new speech may be sent."""
        self._buffer_cleared.set()
