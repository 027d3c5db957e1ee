"""The janitor's input and result: the request for one round, and the round's findings.

A result is written to history every half minute, so its size is bounded. It holds no secrets. No
I/O.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from avatar_sessions.contract.messages import Incoming
from avatar_sessions.contract.reports import Outgoing

MAX_LINES: Final = 100
"""How many sessions, and how many rooms, a finding lists; its totals count all of them."""
MAX_PROBLEMS: Final = 20
MAX_WHY_CHARS: Final = 300

Why = Annotated[str, AfterValidator(lambda text: text[:MAX_WHY_CHARS])]
"""Text for an operator, cut to a length that cannot fill a history."""


class JanitorRound(Incoming):
    """The request for one round. It can be stricter than the worker's settings, never laxer."""

    dry_run: bool = False
    """Report what would be ended, and end nothing. True if the worker's setting is true."""
    spare_strangers: bool = False
    """Leave unknown sessions alone, even if the worker's setting says that this namespace owns the
    API key."""
    grace_s: Annotated[float, Field(ge=1, le=86_400)] | None = None
    """How many seconds old an unknown session must be, if more than the worker's setting."""


class Decision(StrEnum):
    """The decision about a session or a room. A finding lists them in this order."""

    FAILED = "failed"  # it should have ended and did not; the next round tries again
    STOPPED = "stopped"  # a session
    DELETED = "deleted"  # a room
    AVATAR_REMOVED = "avatar removed"  # from a room that is to stay
    WOULD_STOP = "would stop"  # these three: in a dry run
    WOULD_DELETE = "would delete"
    WOULD_REMOVE_AVATAR = "would remove avatar"
    ALREADY_GONE = "already gone"  # it ended before the janitor acted
    IN_DOUBT = "left: in doubt"  # a question could not be answered
    STRANGER = "left: stranger"  # no workflow of this namespace has opened it
    TOO_YOUNG = "left: too young"  # unknown, and its workflow may not be visible yet
    ROOM_STAYS = "left: room stays"  # its session is over, and its request says to keep it
    RUNNING = "left: workflow is running"  # and cleans up by itself


ACTED: Final = frozenset({Decision.STOPPED, Decision.DELETED, Decision.AVATAR_REMOVED})
WOULD_ACT: Final = frozenset(
    {Decision.WOULD_STOP, Decision.WOULD_DELETE, Decision.WOULD_REMOVE_AVATAR}
)


class SessionFinding(Outgoing):
    """A LiveAvatar session that is billed, and the decision about it."""

    provider_session_id: str
    """LiveAvatar's id of the session."""
    created_at: datetime | None = None
    """When it was created, by LiveAvatar's clock."""
    workflow_id: str | None = None
    """The workflow that opened it, if one is known."""
    run_id: str | None = None
    """The run of that workflow."""
    decision: Decision
    """What was decided, or done."""
    why: Why
    """The reason for the decision."""


class RoomFinding(Outgoing):
    """A room that a session created on the workers' LiveKit server, and the decision about it."""

    room: str
    """The room's name."""
    workflow_id: str
    """The workflow that created it."""
    run_id: str
    """The run of that workflow."""
    participants: int = 0
    """How many participants are in it."""
    decision: Decision
    """What was decided, or done."""
    why: Why
    """The reason for the decision."""


class JanitorTotals(Outgoing):
    """The totals of a round, including what its lists have no space for."""

    sessions: int = 0
    """LiveAvatar sessions that are billed to the API key."""
    sessions_by_decision: dict[Decision, int] = Field(default_factory=dict)
    """How many sessions had each decision."""
    rooms: int = 0
    """Rooms that sessions created; others are not counted."""
    rooms_by_decision: dict[Decision, int] = Field(default_factory=dict)
    """How many rooms had each decision."""

    def count(self, *decisions: Decision) -> int:
        """Count the sessions and rooms that had one of these decisions."""
        both = (self.sessions_by_decision, self.rooms_by_decision)
        return sum(by.get(one, 0) for by in both for one in decisions)


class JanitorFinding(Outgoing):
    """The result of a round."""

    namespace: str
    """The Temporal namespace whose workflows were looked up."""
    started_at: datetime
    """When the round began."""
    ended_at: datetime
    """When the round was done."""
    dry_run: bool
    """Whether nothing was to be ended."""
    owns_key: bool
    """Whether unknown sessions on the API key were to be ended."""
    grace_s: float
    """How many seconds old an unknown session had to be."""
    checks_rooms: bool
    """Whether the worker has a LiveKit server whose rooms were checked."""
    sessions: list[SessionFinding] = Field(default_factory=list)
    """The billed LiveAvatar sessions; the first hundred."""
    rooms: list[RoomFinding] = Field(default_factory=list)
    """The rooms; the first hundred."""
    totals: JanitorTotals = Field(default_factory=JanitorTotals)
    """The totals of the round."""
    problems: list[Why] = Field(default_factory=list)
    """What could not be checked, each with what to do."""

    @property
    def succeeded(self) -> bool:
        """Whether everything was checked, and everything that should end did."""
        return not self.problems and not self.totals.count(Decision.FAILED)
