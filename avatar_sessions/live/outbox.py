"""What is on its way to the owner: utterances, their positions, and what goes on the wire next.

Pure: no socket, no task, no clock of its own. The connection asks it for frames and tells it what
the owner says; the public objects put speech in. Positions are bytes of an utterance's PCM
(16-bit mono at 24 kHz), counted from its beginning.

What the owner has not confirmed as sent on is kept, for the next connection, which may be to
another owner: at most the window. So is what the avatar has not played, about two seconds: a new
LiveAvatar session knows nothing of what the one before it had.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final

from avatar_sessions.contract.live_dialect import WINDOW_BYTES, LiveBegin, LiveProgress
from avatar_sessions.contract.live_dialect import LiveInterrupted as InterruptAnswer
from avatar_sessions.contract.messages import Failure, UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.errors import AvatarSessionsError, LiveSpeechMisused
from avatar_sessions.live.events import SpeechInterrupted
from liveavatar_lite.messages import AgentInterrupt, AgentSpeakEnd, encode_command

BYTES_PER_MS: Final = 48
FRAME_BYTES: Final = 48_000
"""A second: the most that one frame carries, so that an interrupt never waits behind more."""
TINY_BYTES: Final = 960
"""20 ms. Less than that waits a moment for more: a frame costs the same whatever it carries."""
TINY_WAIT_S: Final = 0.02
MAX_UNPLAYED_BYTES: Final = 480_000
"""Ten seconds: the most that is kept of speech that was sent on and, it seems, not played."""
ANSWER_S: Final = 10.0
"""How long the owner may take to say where an utterance goes on."""


class ResumeFrom(StrEnum):
    """What becomes of an utterance in flight when the session's owner changes."""

    RESUME = "resume"  # it goes on where the owner before had come to
    DROP = "drop"  # it is given up: outcome `lost`


class OutgoingState(Enum):
    """Where an utterance stands for its speaker."""

    OPEN = "open"  # takes speech
    SEALED = "sealed"  # all of it was given
    CUT = "cut"  # interrupted by us; the owner has not said what was heard
    OVER = "over"  # there is a report


_TRANSITIONS: Final[dict[OutgoingState, frozenset[OutgoingState]]] = {
    OutgoingState.OPEN: frozenset({OutgoingState.SEALED, OutgoingState.CUT, OutgoingState.OVER}),
    OutgoingState.SEALED: frozenset({OutgoingState.CUT, OutgoingState.OVER}),
    OutgoingState.CUT: frozenset({OutgoingState.OVER}),
    OutgoingState.OVER: frozenset(),
}


class PeerState(Enum):
    """What the owner at the other end of this connection was told of an utterance."""

    NOTHING = "nothing"  # no owner ever heard of it
    EARLIER = "earlier"  # it was begun on an earlier connection
    ASKED = "asked"  # it was begun again; where it goes on has not been answered
    BEGUN = "begun"
    SEALED = "sealed"


@dataclass(eq=False)
class ControlFrame:
    """A frame that goes before all speech."""

    frame: str
    is_put: bool = False
    """It has been handed to a connection."""


@dataclass(eq=False)
class PendingInterrupt(ControlFrame):
    """An interrupt until it is answered."""

    event_id: str = ""
    cut: tuple[OutgoingUtterance, ...] = ()
    """What was on its way when it was asked for."""
    is_followed: bool = False
    """Speech was begun after it on the wire: it must not be sent again, or it would cut that."""
    answer: SpeechInterrupted | None = None


@dataclass(eq=False)
class OutgoingUtterance:
    """One utterance. Changed by its `Outbox` only."""

    id: str
    text: str | None
    state: OutgoingState = OutgoingState.OPEN
    told: PeerState = PeerState.NOTHING
    end: int = 0
    """How much its speaker gave."""
    put: int = 0
    """How much was put on the connection that is there now; until the owner has said where to go
    on, on the one before."""
    sent: int = 0
    """How much the owner sent on to LiveAvatar."""
    played: int = 0
    """How much of that the avatar played, at least."""
    kept_from: int = 0
    kept: bytearray = field(default_factory=bytearray)
    """From ``kept_from``, which is what was played when the owner last told, to ``end``; empty once
    cut."""
    fresh: bool = False
    """It goes on in a LiveAvatar session that knows nothing of it."""
    tiny_since_s: float | None = None
    """Since when there is less than a tiny piece to send."""
    cut_by: PendingInterrupt | None = None
    report: UtteranceReport | None = None
    """Set when it is over."""

    def become(self, state: OutgoingState) -> None:
        """Go to a state.

        Raises:
            RuntimeError: no arrow leads there: a bug of ours.
        """
        if state not in _TRANSITIONS[self.state]:
            raise RuntimeError(f"an utterance cannot go from {self.state.name} to {state.name}")
        self.state = state

    @property
    def unconfirmed(self) -> int:
        """Bytes that count for the window."""
        return (self.put if self.state is OutgoingState.CUT else self.end) - self.sent

    def begin(self, silent_ms: int = 0, unplayed_ms: int = 0) -> str:
        """The frame that opens it, or goes on with it."""
        message = LiveBegin(
            utterance_id=self.id,
            text=self.text,
            offset_bytes=self.sent,
            silent_ms=silent_ms,
            unplayed_ms=0 if self.fresh else unplayed_ms,
            fresh=self.fresh,
        )
        return message.model_dump_json(exclude_none=True)

    def rewind(self) -> None:
        """What was sent and not played is gone with its LiveAvatar session: send it again."""
        self.sent = self.put = self.kept_from
        self.fresh = True

    def confirm(self, sent: int, played: int) -> None:
        """The owner tells how far it has come."""
        if min(sent & ~1, self.put) > self.sent:
            self.sent = min(sent & ~1, self.put)
            self.fresh = False
        self.played = min(max(self.played, played), self.sent)
        keep_from = max(self.played & ~1, self.sent - MAX_UNPLAYED_BYTES)
        if keep_from > self.kept_from:
            del self.kept[: keep_from - self.kept_from]
            self.kept_from = keep_from

    def local_report(self, outcome: UtteranceOutcome, why: str) -> UtteranceReport:
        """Its line of the ledger as far as it is known here."""
        failure = None
        if outcome is not UtteranceOutcome.INTERRUPTED:
            failure = Failure(type="NoReport", message=why)
        return UtteranceReport(
            id=self.id,
            outcome=outcome,
            source="live",
            text=self.text,
            duration_ms=self.end // BYTES_PER_MS,
            received_ms=max(self.put, self.sent) // BYTES_PER_MS,
            sent_ms=self.sent // BYTES_PER_MS,
            heard_ms=self.played // BYTES_PER_MS,
            failure=failure,
        )


class Outbox:
    """Utterances and orders on their way, in the order in which they were given.

    Attributes:
        window_bytes: how much may be unconfirmed, all utterances together.
        ended: why nothing goes out any more; None while it does.
        news_at_s: when the owner last told anything of an utterance.
        due_at_s: when `next_frame` is worth asking again, though nothing has changed by then.
    """

    def __init__(
        self,
        resume: ResumeFrom = ResumeFrom.RESUME,
        on_over: Callable[[UtteranceReport], None] = lambda report: None,
    ) -> None:
        """Take what becomes of utterances in flight at a move, and who hears of their ends."""
        self.window_bytes = WINDOW_BYTES
        self.ended: AvatarSessionsError | None = None
        self.news_at_s = 0.0
        self.due_at_s: float | None = None
        self._resume = resume
        self._on_over = on_over
        self._utterances: dict[str, OutgoingUtterance] = {}  # not over, in order
        self._orders: deque[ControlFrame] = deque()
        self._interrupts: list[PendingInterrupt] = []  # without an answer
        self._asked: OutgoingUtterance | None = None
        self._asked_at_s = 0.0
        self._epoch: tuple[int, int] | None = None
        self._generation: int | None = None
        self._silent_from_s: float | None = None  # when the avatar ran, or will run, out of speech

    # ------------------------------------------------------------ the speaker

    @property
    def open_utterance(self) -> OutgoingUtterance | None:
        """The one that takes speech: there is never more than one."""
        return next((u for u in self._utterances.values() if u.state is OutgoingState.OPEN), None)

    @property
    def first(self) -> OutgoingUtterance | None:
        """The earliest utterance that is not over."""
        return next(iter(self._utterances.values()), None)

    @property
    def on_the_way(self) -> int:
        """How many utterances are not over."""
        return len(self._utterances)

    @property
    def unconfirmed(self) -> int:
        """Bytes given and not confirmed as sent on, all utterances together."""
        return sum(utterance.unconfirmed for utterance in self._utterances.values())

    @property
    def room(self) -> int:
        """How many bytes may be given now; even."""
        return max(0, self.window_bytes - self.unconfirmed) & ~1

    @property
    def unplayed_s(self) -> float:
        """Length of the speech that was given and not played yet, as far as the owner told."""
        unplayed = sum(max(0, u.end - u.played) for u in self._utterances.values())
        return unplayed / BYTES_PER_MS / 1000

    @property
    def is_flushed(self) -> bool:
        """Everything that may go out by itself has been put on the connection."""
        return not self._orders and all(
            u.told is PeerState.SEALED or u.state in (OutgoingState.CUT, OutgoingState.OPEN)
            for u in self._utterances.values()
        )

    def open(self, utterance_id: str, text: str | None) -> OutgoingUtterance:
        """Open an utterance after all others.

        Raises:
            LiveSpeechMisused: one with this id is on its way.
        """
        if utterance_id in self._utterances:
            raise LiveSpeechMisused(
                f"utterance {utterance_id} is on its way already: an id is for one utterance"
            )
        utterance = OutgoingUtterance(utterance_id, text)
        self._utterances[utterance_id] = utterance
        return utterance

    def give(self, utterance: OutgoingUtterance, pcm: memoryview) -> None:
        """Add speech to an open utterance, at most `room` bytes, an even number."""
        assert utterance.state is OutgoingState.OPEN
        utterance.kept += pcm
        utterance.end += len(pcm)

    def seal(self, utterance: OutgoingUtterance) -> None:
        """All of it was given."""
        utterance.become(OutgoingState.SEALED)

    def order(self, frame: str) -> ControlFrame:
        """Send a command before all speech that has not gone out."""
        order = ControlFrame(frame)
        self._orders.append(order)
        return order

    def withdraw(self, order: ControlFrame) -> None:
        """Do not send an order that nobody waits for any more; one that went out, went out."""
        if order in self._orders:
            self._orders.remove(order)

    def interrupt(self, event_id: str) -> PendingInterrupt:
        """Cut everything that is on its way: what has not gone out never will."""
        frame = encode_command(AgentInterrupt(event_id)).decode()
        cut = tuple(self._utterances.values())
        pending = PendingInterrupt(frame, event_id=event_id, cut=cut)
        for utterance in cut:
            if utterance.told is PeerState.NOTHING:
                self._over_here(utterance, UtteranceOutcome.INTERRUPTED, "")
            elif utterance.state is not OutgoingState.CUT:
                utterance.become(OutgoingState.CUT)
                utterance.kept.clear()
                utterance.cut_by = pending
        self._orders.append(pending)
        self._interrupts.append(pending)
        return pending

    def give_up(self, utterance: OutgoingUtterance, outcome: UtteranceOutcome, why: str) -> None:
        """Stop waiting for an utterance; one that the owner knows of is sealed there."""
        if utterance.told in (PeerState.ASKED, PeerState.BEGUN):
            self._orders.append(ControlFrame(_seal_frame(utterance)))
        self._over_here(utterance, outcome, why)

    def end(self, error: AvatarSessionsError, outcome: UtteranceOutcome) -> None:
        """Nothing goes out any more. What was on its way gets this outcome."""
        if self.ended is None:
            self.ended = error
            for utterance in tuple(self._utterances.values()):
                self._over_here(utterance, outcome, str(error))

    # --------------------------------------------------------- the connection

    def broke(self) -> None:
        """The connection is gone: what was on it is not known to have arrived."""
        self._asked = None
        for utterance in self._utterances.values():
            if utterance.told is not PeerState.NOTHING:
                utterance.told = PeerState.EARLIER
        for interrupt in reversed(self._interrupts):
            if interrupt.is_followed:
                self._settle(interrupt, None)
            elif interrupt.is_put:
                interrupt.is_put = False
                self._orders.appendleft(interrupt)

    def connected(self, epoch: tuple[int, int], window_bytes: int, generation: int = 0) -> None:
        """There is a connection to this owner: it was just made, nothing was sent on it."""
        self.window_bytes = window_bytes
        moved = self._epoch is not None and epoch != self._epoch
        fresh = self._generation is not None and generation != self._generation
        self._epoch, self._generation = epoch, generation
        if not moved:
            return
        for utterance in tuple(self._utterances.values()):
            if utterance.told is not PeerState.EARLIER:
                continue
            # The owner that could tell what was heard is gone.
            cut_by, drop = utterance.cut_by, self._resume is ResumeFrom.DROP
            if cut_by is not None and (drop or cut_by.answer is not None):
                self._over_here(utterance, UtteranceOutcome.INTERRUPTED, "")
            elif drop:
                self._over_here(utterance, UtteranceOutcome.LOST, "the session's owner changed")
            elif fresh and cut_by is None:
                utterance.rewind()

    def next_frame(self, now_s: float) -> str | bytes | None:
        """What to send now: text, or PCM. None: nothing, until something changes.

        Raises:
            TimeoutError: the owner does not say where an utterance goes on.
        """
        self.due_at_s = None
        if self._asked is not None:
            self.due_at_s = self._asked_at_s + ANSWER_S
            if now_s >= self.due_at_s:
                raise TimeoutError(f"no answer to live.begin within {ANSWER_S:g} s")
            return None
        for utterance in self._utterances.values():
            # Before the interrupt that cut it: a new owner must know what it cuts.
            if utterance.state is OutgoingState.CUT and utterance.told is PeerState.EARLIER:
                return self._ask(utterance, now_s)
        if self._orders:
            order = self._orders.popleft()
            order.is_put = True
            return order.frame
        for utterance in self._utterances.values():
            if utterance.state is OutgoingState.CUT:
                continue
            frame = self._frame_of(utterance, now_s)
            if frame is not None or utterance.told is not PeerState.SEALED:
                return frame  # one at a time: PCM belongs to the utterance begun last
        return None

    def progress(self, told: LiveProgress, now_s: float) -> None:
        """The owner tells how far an utterance has come."""
        utterance = self._utterances.get(told.utterance_id)
        if utterance is None:
            return
        self.news_at_s = now_s
        if utterance is self._asked:
            self._asked = None
            if not self._goes_on(utterance, told.received_bytes):
                return
        utterance.confirm(told.sent_bytes, told.played_bytes)
        unplayed = sum(u.sent - u.played for u in self._utterances.values())
        if utterance.sent:
            self._silent_from_s = now_s + unplayed / BYTES_PER_MS / 1000

    def over(self, report: UtteranceReport, now_s: float) -> None:
        """The owner tells what became of an utterance: one of ours, or one that was over."""
        utterance = self._utterances.get(report.id)
        if utterance is not None:
            self.news_at_s = now_s
            self._over(utterance, report)

    def interrupted(self, answer: InterruptAnswer) -> None:
        """The owner tells that an interrupt is on the wire to LiveAvatar, ours or another's."""
        for interrupt in tuple(self._interrupts):
            if interrupt.event_id == answer.event_id:
                self._settle(interrupt, answer)

    # ------------------------------------------------------------------ inside

    def _frame_of(self, utterance: OutgoingUtterance, now_s: float) -> str | bytes | None:
        if utterance.told is PeerState.NOTHING:
            utterance.told = PeerState.BEGUN
            for interrupt in self._interrupts:
                interrupt.is_followed = True
            return utterance.begin()
        if utterance.told is PeerState.EARLIER:
            return self._ask(utterance, now_s)
        if utterance.told is PeerState.SEALED:
            return None
        waiting = utterance.end - utterance.put
        if waiting:
            return self._pcm_of(utterance, waiting, now_s)
        if utterance.state is not OutgoingState.SEALED:
            return None
        utterance.told = PeerState.SEALED
        return _seal_frame(utterance)

    def _pcm_of(self, utterance: OutgoingUtterance, waiting: int, now_s: float) -> bytes | None:
        if waiting < TINY_BYTES and utterance.state is OutgoingState.OPEN:
            if utterance.tiny_since_s is None:
                utterance.tiny_since_s = now_s
            due_at_s = utterance.tiny_since_s + TINY_WAIT_S
            if now_s < due_at_s:
                self.due_at_s = due_at_s
                return None
        on_the_wire = sum(u.put - u.sent for u in self._utterances.values())
        size = min(waiting, FRAME_BYTES, (self.window_bytes - on_the_wire) & ~1)
        if size <= 0:
            return None
        at = utterance.put - utterance.kept_from
        utterance.put += size
        utterance.tiny_since_s = None
        with memoryview(utterance.kept) as kept:
            return bytes(kept[at : at + size])

    def _ask(self, utterance: OutgoingUtterance, now_s: float) -> str:
        self._asked, self._asked_at_s = utterance, now_s
        utterance.told = PeerState.ASKED
        silent_s = 0.0
        if utterance.sent and self._silent_from_s is not None:
            silent_s = now_s - self._silent_from_s
        return utterance.begin(
            silent_ms=int(max(0.0, silent_s) * 1000), unplayed_ms=int(max(0.0, -silent_s) * 1000)
        )

    def _goes_on(self, utterance: OutgoingUtterance, received: int) -> bool:
        utterance.told = PeerState.BEGUN
        if utterance.state is OutgoingState.CUT:
            utterance.put = max(utterance.sent, received)
            return True
        if not utterance.sent <= received <= utterance.end or received % 2:
            why = f"the owner has {received} bytes, {utterance.sent} to {utterance.end} are known"
            self.give_up(utterance, UtteranceOutcome.LOST, why)
            return False
        utterance.put = received
        return True

    def _over_here(self, utterance: OutgoingUtterance, outcome: UtteranceOutcome, why: str) -> None:
        self._over(utterance, utterance.local_report(outcome, why))

    def _over(self, utterance: OutgoingUtterance, report: UtteranceReport) -> None:
        utterance.become(OutgoingState.OVER)
        utterance.report = report
        utterance.kept.clear()
        del self._utterances[utterance.id]
        if utterance is self._asked:
            self._asked = None
        self._on_over(report)

    def _settle(self, interrupt: PendingInterrupt, answer: InterruptAnswer | None) -> None:
        """Answer an interrupt; from what is known here where the owner cannot tell."""
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


def _seal_frame(utterance: OutgoingUtterance) -> str:
    return encode_command(AgentSpeakEnd(utterance.id)).decode()
