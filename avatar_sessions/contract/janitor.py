"""What the janitor is asked and what it answers: one round, and everything it found in it.

The answer stands in history every half minute, so it is bounded; no secret crosses. No I/O.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from avatar_sessions.contract.messages import Incoming, Outgoing

MAX_LINES: Final = 100
"""Sessions, and rooms, that a finding names; its totals count all."""
MAX_PROBLEMS: Final = 20
MAX_WHY_CHARS: Final = 300

Why = Annotated[str, AfterValidator(lambda text: text[:MAX_WHY_CHARS])]
"""Words for an operator, cut to a length that cannot fill a history."""


class JanitorRound(Incoming):
    """One round. It can be more careful than the worker's own settings, never less."""

    dry_run: bool = False
    """Tell what would be done, and do nothing. A worker set to dry runs makes no other ones."""
    spare_strangers: bool = False
    """Leave unknown sessions alone even where the API key is said to be ours alone."""
    grace_s: Annotated[float, Field(ge=1, le=86_400)] | None = None
    """How old an unknown session must be; counts where it is longer than the worker's."""


class Decision(StrEnum):
    """What became of a session or a room. A finding names them in this order."""

    FAILED = "failed"  # it should have ended, and did not: the next round tries again
    STOPPED = "stopped"  # a session
    DELETED = "deleted"  # a room
    AVATAR_REMOVED = "avatar removed"  # from a room that is somebody else's
    WOULD_STOP = "would stop"  # these three: in a dry run
    WOULD_DELETE = "would delete"
    WOULD_REMOVE_AVATAR = "would remove avatar"
    ALREADY_GONE = "already gone"  # it ended by itself, or by somebody else, meanwhile
    IN_DOUBT = "left: in doubt"  # something could not be found out
    STRANGER = "left: stranger"  # no workflow of this namespace has opened it
    TOO_YOUNG = "left: too young"  # a stranger whose workflow may not be visible yet
    ROOM_STAYS = "left: room stays"  # its session is over, and it was asked not to be deleted
    RUNNING = "left: workflow is running"  # which cleans up itself


ACTED: Final = frozenset({Decision.STOPPED, Decision.DELETED, Decision.AVATAR_REMOVED})
WOULD_ACT: Final = frozenset(
    {Decision.WOULD_STOP, Decision.WOULD_DELETE, Decision.WOULD_REMOVE_AVATAR}
)


class SessionFinding(Outgoing):
    """A LiveAvatar session that is billed, and what was decided."""

    provider_session_id: str
    created_at: datetime | None = None
    """By LiveAvatar's clock."""
    workflow_id: str | None = None
    run_id: str | None = None
    decision: Decision
    why: Why


class RoomFinding(Outgoing):
    """A room of ours on our own LiveKit server, and what was decided."""

    room: str
    workflow_id: str
    run_id: str
    participants: int = 0
    decision: Decision
    why: Why


class JanitorTotals(Outgoing):
    """All that was seen, also what the lists have no space for."""

    sessions: int = 0
    """LiveAvatar sessions that are billed to the API key."""
    sessions_by_decision: dict[Decision, int] = Field(default_factory=dict)
    rooms: int = 0
    """Rooms of ours; others are not counted."""
    rooms_by_decision: dict[Decision, int] = Field(default_factory=dict)

    def count(self, *decisions: Decision) -> int:
        """How many sessions and rooms had one of these decisions."""
        both = (self.sessions_by_decision, self.rooms_by_decision)
        return sum(by.get(one, 0) for by in both for one in decisions)


class JanitorFinding(Outgoing):
    """The result of a round."""

    namespace: str
    started_at: datetime
    ended_at: datetime
    dry_run: bool
    owns_key: bool
    grace_s: float
    checks_rooms: bool
    """Whether the worker has a LiveKit server of ours to look at."""
    sessions: list[SessionFinding] = Field(default_factory=list)
    rooms: list[RoomFinding] = Field(default_factory=list)
    totals: JanitorTotals = Field(default_factory=JanitorTotals)
    problems: list[Why] = Field(default_factory=list)
    """What could not be found out, each with what to do."""

    @property
    def succeeded(self) -> bool:
        """Whether all was seen, and all that should end did."""
        return not self.problems and not self.totals.count(Decision.FAILED)
