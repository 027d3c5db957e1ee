"""The queue of utterances and commands on their way to the owner: what is sent next.

Pure: no socket, no task, no clock of its own. The connection asks it for messages and hands it the
owner's answers; the public objects write speech into it. How messages look on the wire is
`protocol`'s part.

Speech that the owner has not confirmed as sent on is kept for the next connection, which may lead
to another owner: at most the window. So is speech that the avatar has not played, about two
seconds: a new LiveAvatar session has nothing of what the session before it had.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from avatar_sessions.contract.live_dialect import (
    WINDOW_BYTES,
    LiveBegin,
    LiveInterrupted,
    LiveProgress,
)
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.errors import AvatarSessionsError, LiveSpeechMisused
from avatar_sessions.live.events import SpeechInterrupted
from avatar_sessions.live.outgoing_utterance import (
    BYTES_PER_MS,
    ControlFrame,
    OutgoingState,
    OutgoingUtterance,
    PeerState,
    PendingInterrupt,
)
from avatar_sessions.live.protocol import PcmChunk, SpeakerMessage
from liveavatar_lite.messages import AgentInterrupt, AgentSpeakEnd, Command

FRAME_BYTES: Final = 48_000
"""A second: the most that one frame carries, so that an interrupt never waits behind more."""
TINY_BYTES: Final = 960
"""20 ms. A smaller piece waits briefly for more: each frame has the same cost."""
TINY_WAIT_S: Final = 0.02
ANSWER_TIMEOUT_S: Final = 10.0
"""How long the owner may take to answer where an utterance is to be resumed."""


class ResumeFrom(StrEnum):
    """What becomes of an utterance in flight when the session's owner changes."""

    RESUME = "resume"  # it goes on where the owner before had come to
    DROP = "drop"  # it is given up: outcome `lost`


class Outbox:
    """Utterances and commands in flight, in the order in which they were requested.

    Attributes:
        window_bytes: how much may be unconfirmed, all utterances together.
        ended: why nothing is sent any more; None while speech is.
        last_report_at_s: when the owner last reported anything about an utterance.
        due_at_s: when `next_message` is worth calling again although nothing has changed by then.
    """

    def __init__(
        self,
        resume: ResumeFrom = ResumeFrom.RESUME,
        on_over: Callable[[UtteranceReport], None] = lambda report: None,
    ) -> None:
        """Make an empty one.

        Args:
            resume: what becomes of utterances in flight when the owner changes.
            on_over: called with the report of each utterance that is over.
        """
        self.window_bytes = WINDOW_BYTES
        self.ended: AvatarSessionsError | None = None
        self.last_report_at_s = 0.0
        self.due_at_s: float | None = None
        self._resume = resume
        self._on_over = on_over
        self._utterances: dict[str, OutgoingUtterance] = {}  # not over, in order
        self._commands: deque[ControlFrame] = deque()
        self._interrupts: list[PendingInterrupt] = []  # without an answer
        self._resuming: OutgoingUtterance | None = None
        self._resuming_since_s = 0.0
        self._epoch: tuple[int, int] | None = None
        self._generation: int | None = None
        self._silent_from_s: float | None = None  # when the avatar ran, or will run, out of speech

    # ------------------------------------------------------------ the speaker

    @property
    def open_utterance(self) -> OutgoingUtterance | None:
        """The utterance that takes speech; there is never more than one."""
        return next((u for u in self._utterances.values() if u.state is OutgoingState.OPEN), None)

    @property
    def first(self) -> OutgoingUtterance | None:
        """The earliest utterance that is not over."""
        return next(iter(self._utterances.values()), None)

    @property
    def in_flight(self) -> int:
        """How many utterances are not over."""
        return len(self._utterances)

    @property
    def unconfirmed_bytes(self) -> int:
        """Bytes written and not confirmed as sent on, all utterances together."""
        return sum(utterance.unconfirmed_bytes for utterance in self._utterances.values())

    @property
    def room_bytes(self) -> int:
        """How much may be written now; even."""
        return max(0, self.window_bytes - self.unconfirmed_bytes) & ~1

    @property
    def unplayed_s(self) -> float:
        """Length of the speech written and not played yet, by the owner's last report."""
        unplayed = sum(max(0, u.written_bytes - u.played_bytes) for u in self._utterances.values())
        return unplayed / BYTES_PER_MS / 1000

    @property
    def is_flushed(self) -> bool:
        """Everything that can be sent without the speaker's help was handed to the connection."""
        return not self._commands and all(
            u.peer is PeerState.END_SENT or u.state in (OutgoingState.CUT, OutgoingState.OPEN)
            for u in self._utterances.values()
        )

    def open(self, utterance_id: str, text: str | None) -> OutgoingUtterance:
        """Open an utterance after all others.

        Raises:
            LiveSpeechMisused: an utterance with this id is in flight.
        """
        if utterance_id in self._utterances:
            raise LiveSpeechMisused(
                f"utterance {utterance_id} is in flight already: use each id for one utterance"
            )
        utterance = OutgoingUtterance(utterance_id, text)
        self._utterances[utterance_id] = utterance
        return utterance

    def write(self, utterance: OutgoingUtterance, pcm: memoryview) -> None:
        """Add speech to an open utterance: at most `room_bytes`, an even number of bytes."""
        assert utterance.state is OutgoingState.OPEN
        utterance.kept += pcm
        utterance.written_bytes += len(pcm)

    def finish(self, utterance: OutgoingUtterance) -> None:
        """All of its speech was written."""
        utterance.become(OutgoingState.FINISHED)

    def command(self, command: Command) -> ControlFrame:
        """Send a command before all speech that waits."""
        control = ControlFrame(command)
        self._commands.append(control)
        return control

    def withdraw(self, control: ControlFrame) -> None:
        """Do not send a command whose caller has stopped waiting; one that was sent stays sent."""
        if control in self._commands:
            self._commands.remove(control)

    def interrupt(self, event_id: str) -> PendingInterrupt:
        """Cut every utterance in flight: speech that waits here is never sent."""
        cut = tuple(self._utterances.values())
        pending = PendingInterrupt(AgentInterrupt(event_id), event_id=event_id, cut=cut)
        for utterance in cut:
            if utterance.peer is PeerState.UNKNOWN:
                self._over_locally(utterance, UtteranceOutcome.INTERRUPTED, "")
            elif utterance.state is not OutgoingState.CUT:
                utterance.become(OutgoingState.CUT)
                utterance.kept.clear()
                utterance.cut_by = pending
        self._commands.append(pending)
        self._interrupts.append(pending)
        return pending

    def give_up(self, utterance: OutgoingUtterance, outcome: UtteranceOutcome, why: str) -> None:
        """Stop waiting for an utterance; end it at an owner that has received its begin."""
        if utterance.peer in (PeerState.RESUMING, PeerState.BEGUN):
            self._commands.append(ControlFrame(AgentSpeakEnd(utterance.id)))
        self._over_locally(utterance, outcome, why)

    def end(self, error: AvatarSessionsError, outcome: UtteranceOutcome) -> None:
        """Send nothing any more. Utterances in flight end with this outcome."""
        if self.ended is None:
            self.ended = error
            for utterance in tuple(self._utterances.values()):
                self._over_locally(utterance, outcome, str(error))

    # --------------------------------------------------------- the connection

    def disconnected(self) -> None:
        """The connection is gone: what was handed to it may not have arrived."""
        self._resuming = None
        for utterance in self._utterances.values():
            if utterance.peer is not PeerState.UNKNOWN:
                utterance.peer = PeerState.EARLIER
        for interrupt in reversed(self._interrupts):
            if interrupt.is_followed:
                self._settle(interrupt, None)
            elif interrupt.is_sent:
                interrupt.is_sent = False
                self._commands.appendleft(interrupt)

    def connected(self, epoch: tuple[int, int], window_bytes: int, generation: int = 0) -> None:
        """A connection to this owner was made; nothing was sent on it yet."""
        self.window_bytes = window_bytes
        moved = self._epoch is not None and epoch != self._epoch
        fresh = self._generation is not None and generation != self._generation
        self._epoch, self._generation = epoch, generation
        if not moved:
            return
        for utterance in tuple(self._utterances.values()):
            if utterance.peer is not PeerState.EARLIER:
                continue
            # The owner that could report what was heard is gone.
            cut_by, drop = utterance.cut_by, self._resume is ResumeFrom.DROP
            if cut_by is not None and (drop or cut_by.answer is not None):
                self._over_locally(utterance, UtteranceOutcome.INTERRUPTED, "")
            elif drop:
                self._over_locally(utterance, UtteranceOutcome.LOST, "the session's owner changed")
            elif fresh and cut_by is None:
                utterance.rewind()

    def next_message(self, now_s: float) -> SpeakerMessage | None:
        """The message to send now. None: nothing, until something changes.

        Raises:
            TimeoutError: the owner does not answer where an utterance is to be resumed.
        """
        self.due_at_s = None
        if self._resuming is not None:
            self.due_at_s = self._resuming_since_s + ANSWER_TIMEOUT_S
            if now_s >= self.due_at_s:
                raise TimeoutError(f"no answer to live.begin within {ANSWER_TIMEOUT_S:g} s")
            return None
        for utterance in self._utterances.values():
            # Before the interrupt that cut it: a new owner must know what it cuts.
            if utterance.state is OutgoingState.CUT and utterance.peer is PeerState.EARLIER:
                return self._begin_again(utterance, now_s)
        if self._commands:
            control = self._commands.popleft()
            control.is_sent = True
            return control.command
        for utterance in self._utterances.values():
            if utterance.state is OutgoingState.CUT:
                continue
            message = self._message_of(utterance, now_s)
            if message is not None or utterance.peer is not PeerState.END_SENT:
                return message  # one at a time: PCM belongs to the utterance begun last
        return None

    def progress(self, progress: LiveProgress, now_s: float) -> None:
        """The owner reports how far an utterance has come."""
        utterance = self._utterances.get(progress.utterance_id)
        if utterance is None:
            return
        self.last_report_at_s = now_s
        if utterance is self._resuming:
            self._resuming = None
            if not self._go_on(utterance, progress.received_bytes):
                return
        utterance.confirm(progress.sent_bytes, progress.played_bytes)
        unplayed = sum(u.sent_bytes - u.played_bytes for u in self._utterances.values())
        if utterance.sent_bytes:
            self._silent_from_s = now_s + unplayed / BYTES_PER_MS / 1000

    def over(self, report: UtteranceReport, now_s: float) -> None:
        """The owner reports that an utterance is over; not necessarily one that is in flight."""
        utterance = self._utterances.get(report.id)
        if utterance is not None:
            self.last_report_at_s = now_s
            self._over(utterance, report)

    def interrupted(self, answer: LiveInterrupted) -> None:
        """The owner reports that an interrupt, this speaker's or another's, is on the wire."""
        for interrupt in tuple(self._interrupts):
            if interrupt.event_id == answer.event_id:
                self._settle(interrupt, answer)

    # ------------------------------------------------------------------ inside

    def _message_of(self, utterance: OutgoingUtterance, now_s: float) -> SpeakerMessage | None:
        if utterance.peer is PeerState.UNKNOWN:
            utterance.peer = PeerState.BEGUN
            for interrupt in self._interrupts:
                interrupt.is_followed = True
            return utterance.begin()
        if utterance.peer is PeerState.EARLIER:
            return self._begin_again(utterance, now_s)
        if utterance.peer is PeerState.END_SENT:
            return None
        waiting_bytes = utterance.written_bytes - utterance.framed_bytes
        if waiting_bytes:
            return self._pcm_of(utterance, waiting_bytes, now_s)
        if utterance.state is not OutgoingState.FINISHED:
            return None
        utterance.peer = PeerState.END_SENT
        return AgentSpeakEnd(utterance.id)

    def _pcm_of(
        self, utterance: OutgoingUtterance, waiting_bytes: int, now_s: float
    ) -> PcmChunk | None:
        if waiting_bytes < TINY_BYTES and utterance.state is OutgoingState.OPEN:
            if utterance.tiny_since_s is None:
                utterance.tiny_since_s = now_s
            due_at_s = utterance.tiny_since_s + TINY_WAIT_S
            if now_s < due_at_s:
                self.due_at_s = due_at_s
                return None
        on_the_wire = sum(u.framed_bytes - u.sent_bytes for u in self._utterances.values())
        size = min(waiting_bytes, FRAME_BYTES, (self.window_bytes - on_the_wire) & ~1)
        if size <= 0:
            return None
        at = utterance.framed_bytes - utterance.kept_from
        utterance.framed_bytes += size
        utterance.tiny_since_s = None
        with memoryview(utterance.kept) as kept:
            return PcmChunk(utterance.id, bytes(kept[at : at + size]))

    def _begin_again(self, utterance: OutgoingUtterance, now_s: float) -> LiveBegin:
        self._resuming, self._resuming_since_s = utterance, now_s
        utterance.peer = PeerState.RESUMING
        silent_s = 0.0
        if utterance.sent_bytes and self._silent_from_s is not None:
            silent_s = now_s - self._silent_from_s
        return utterance.begin(
            silent_ms=int(max(0.0, silent_s) * 1000), unplayed_ms=int(max(0.0, -silent_s) * 1000)
        )

    def _go_on(self, utterance: OutgoingUtterance, received_bytes: int) -> bool:
        """Resume where the owner has answered; False if the owner lacks speech not kept here."""
        utterance.peer = PeerState.BEGUN
        sent, written = utterance.sent_bytes, utterance.written_bytes
        if utterance.state is OutgoingState.CUT:
            utterance.framed_bytes = max(sent, received_bytes)
            return True
        if not sent <= received_bytes <= written or received_bytes % 2:
            why = f"the owner has {received_bytes} bytes; {sent} to {written} are known here"
            self.give_up(utterance, UtteranceOutcome.LOST, why)
            return False
        utterance.framed_bytes = received_bytes
        return True

    def _over_locally(
        self, utterance: OutgoingUtterance, outcome: UtteranceOutcome, why: str
    ) -> None:
        self._over(utterance, utterance.local_report(outcome, why))

    def _over(self, utterance: OutgoingUtterance, report: UtteranceReport) -> None:
        utterance.become(OutgoingState.OVER)
        utterance.report = report
        utterance.kept.clear()
        del self._utterances[utterance.id]
        if utterance is self._resuming:
            self._resuming = None
        self._on_over(report)

    def _settle(self, interrupt: PendingInterrupt, answer: LiveInterrupted | None) -> None:
        """Answer an interrupt; from what is known here where the owner cannot."""
        self._interrupts.remove(interrupt)
        interrupt.answer = SpeechInterrupted(None, 0)
        if answer is not None and answer.utterance_id is not None:
            interrupt.answer = SpeechInterrupted(answer.utterance_id, answer.heard_ms)
            return
        for one in interrupt.cut:
            report = one.report
            if report is None and answer is None:
                report = one.local_report(UtteranceOutcome.INTERRUPTED, "")
            if report is not None and report.outcome is UtteranceOutcome.INTERRUPTED:
                interrupt.answer = SpeechInterrupted(report.id, report.heard_ms)
                return
