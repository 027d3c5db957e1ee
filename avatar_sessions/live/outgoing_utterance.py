"""One utterance on its way to the owner: its positions, its state, and the speech still kept.

Records only: `outbox` decides what is sent and when. Positions are bytes of the utterance's PCM
(16-bit mono at 24 kHz) from its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.reports import Failure, UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.live.events import SpeechInterrupted
from liveavatar_lite.messages import Command

BYTES_PER_MS: Final = 48
MAX_UNPLAYED_BYTES: Final = 480_000
"""Ten seconds: the most that is kept of speech that was sent on and, it seems, not played."""


class OutgoingState(Enum):
    """Where an utterance stands for its speaker."""

    OPEN = "open"  # takes speech
    FINISHED = "finished"  # all of its speech was written
    CUT = "cut"  # interrupted here; the owner has not reported what was heard
    OVER = "over"  # there is a report


LEGAL_TRANSITIONS: Final[Mapping[OutgoingState, frozenset[OutgoingState]]] = {
    OutgoingState.OPEN: frozenset({OutgoingState.FINISHED, OutgoingState.CUT, OutgoingState.OVER}),
    OutgoingState.FINISHED: frozenset({OutgoingState.CUT, OutgoingState.OVER}),
    OutgoingState.CUT: frozenset({OutgoingState.OVER}),
    OutgoingState.OVER: frozenset(),
}


class PeerState(Enum):
    """What was sent of an utterance to the owner at the other end of the connection."""

    UNKNOWN = "unknown"  # no owner has received its live.begin
    EARLIER = "earlier"  # it was begun on an earlier connection
    RESUMING = "resuming"  # begun again; the owner has not answered where it goes on
    BEGUN = "begun"
    END_SENT = "end sent"


@dataclass(eq=False)
class ControlFrame:
    """A command that is sent before all speech that waits."""

    command: Command
    is_sent: bool = False
    """It was handed to a connection."""


@dataclass(eq=False)
class PendingInterrupt(ControlFrame):
    """An interrupt until it is answered."""

    event_id: str = ""
    cut: tuple[OutgoingUtterance, ...] = ()
    """The utterances in flight when it was requested."""
    is_followed: bool = False
    """Another utterance was begun after it on the wire: sent again, it would cut that one."""
    answer: SpeechInterrupted | None = None


@dataclass(eq=False)
class OutgoingUtterance:
    """One utterance. Changed by its `Outbox` only."""

    id: str
    text: str | None
    state: OutgoingState = OutgoingState.OPEN
    peer: PeerState = PeerState.UNKNOWN
    written_bytes: int = 0
    """How much its speaker has written."""
    framed_bytes: int = 0
    """How much was handed to the present connection; until the owner has answered where to resume,
    to the connection before."""
    sent_bytes: int = 0
    """How much the owner has sent on to LiveAvatar."""
    played_bytes: int = 0
    """How much of that the avatar has played, at least."""
    kept_from: int = 0
    kept: bytearray = field(default_factory=bytearray)
    """PCM from ``kept_from``, which is the last reported ``played_bytes``, to ``written_bytes``;
    empty once cut."""
    fresh: bool = False
    """It is resumed in a LiveAvatar session that has none of it."""
    tiny_since_s: float | None = None
    """Since when less than a tiny piece waits to be sent."""
    cut_by: PendingInterrupt | None = None
    report: UtteranceReport | None = None
    """Set when it is over."""

    def become(self, state: OutgoingState) -> None:
        """Go to a state.

        Raises:
            RuntimeError: the transition is illegal: a bug in the outbox.
        """
        if state not in LEGAL_TRANSITIONS[self.state]:
            raise RuntimeError(f"an utterance cannot go from {self.state.name} to {state.name}")
        self.state = state

    @property
    def unconfirmed_bytes(self) -> int:
        """Bytes that count for the window."""
        until = self.framed_bytes if self.state is OutgoingState.CUT else self.written_bytes
        return until - self.sent_bytes

    def begin(self, silent_ms: int = 0, unplayed_ms: int = 0) -> LiveBegin:
        """The message that opens it, or resumes it."""
        return LiveBegin(
            utterance_id=self.id,
            text=self.text,
            offset_bytes=self.sent_bytes,
            silent_ms=silent_ms,
            unplayed_ms=0 if self.fresh else unplayed_ms,
            fresh=self.fresh,
        )

    def rewind(self) -> None:
        """Send again what was sent and not played: it is lost with its LiveAvatar session."""
        self.sent_bytes = self.framed_bytes = self.kept_from
        self.fresh = True

    def confirm(self, sent_bytes: int, played_bytes: int) -> None:
        """Follow the owner's report; forget the speech that no owner can need any more."""
        sent_bytes = min(sent_bytes & ~1, self.framed_bytes)
        if sent_bytes > self.sent_bytes:
            self.sent_bytes = sent_bytes
            self.fresh = False
        self.played_bytes = min(max(self.played_bytes, played_bytes), self.sent_bytes)
        keep_from = max(self.played_bytes & ~1, self.sent_bytes - MAX_UNPLAYED_BYTES)
        if keep_from > self.kept_from:
            del self.kept[: keep_from - self.kept_from]
            self.kept_from = keep_from

    def local_report(self, outcome: UtteranceOutcome, why: str) -> UtteranceReport:
        """Its report from what is known here, where the owner's cannot be had."""
        failure = None
        if outcome is not UtteranceOutcome.INTERRUPTED:
            failure = Failure(type="NoReport", message=why)
        return UtteranceReport(
            id=self.id,
            outcome=outcome,
            source="live",
            text=self.text,
            duration_ms=self.written_bytes // BYTES_PER_MS,
            received_ms=max(self.framed_bytes, self.sent_bytes) // BYTES_PER_MS,
            sent_ms=self.sent_bytes // BYTES_PER_MS,
            heard_ms=self.played_bytes // BYTES_PER_MS,
            failure=failure,
        )
