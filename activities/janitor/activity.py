"""The janitor's round as an activity: LiveAvatar sessions and rooms that nobody lives in any more.

Safe to repeat, and to run twice at once: it only ends what is over, by its id. What is unknown,
or could not be asked, is left alone and told.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from temporalio import activity

from activities.heartbeats import beating
from activities.janitor.metrics import JanitorMetrics
from activities.janitor.rooms import RoomSweep
from activities.janitor.round import JanitorRules, JanitorSweep
from activities.janitor.sessions import SessionSweep
from activities.provider.rooms import LiveKitSettings
from avatar_sessions.contract import names
from avatar_sessions.contract.janitor import (
    ACTED,
    MAX_LINES,
    MAX_PROBLEMS,
    WOULD_ACT,
    Decision,
    JanitorFinding,
    JanitorRound,
    JanitorTotals,
    RoomFinding,
    SessionFinding,
)
from liveavatar_lite import LiveAvatar

logger = logging.getLogger(__name__)

_RANK: Final = {decision: rank for rank, decision in enumerate(Decision)}

Line = TypeVar("Line", SessionFinding, RoomFinding)


class JanitorActivities:
    """Ends what nobody lives in."""

    def __init__(
        self,
        liveavatar: LiveAvatar,
        livekit: LiveKitSettings | None,
        rules: JanitorRules,
        metrics: JanitorMetrics,
    ) -> None:
        """Take LiveAvatar, and LiveKit unless this deployment has hosted rooms only."""
        self._sessions = SessionSweep(liveavatar)
        self._rooms = None if livekit is None else RoomSweep(livekit)
        self._rules = rules
        self._metrics = metrics

    @activity.defn(name=names.ACTIVITY_REAP)
    async def reap(self, asked: JanitorRound) -> JanitorFinding:
        """Make one round, of about a minute at most, and tell all of it."""
        started_at = datetime.now(UTC)
        round_ = JanitorSweep(activity.client(), self._rules.with_care(asked))
        async with beating():
            sessions = await self._sessions.reap(round_)
            rooms = [] if self._rooms is None else await self._rooms.reap(round_)
        finding = self._finding(round_, started_at, sessions, rooms)
        self._metrics.count(finding)
        _log(finding)
        return finding

    def _finding(
        self,
        round_: JanitorSweep,
        started_at: datetime,
        sessions: Sequence[SessionFinding],
        rooms: Sequence[RoomFinding],
    ) -> JanitorFinding:
        return JanitorFinding(
            namespace=round_.client.namespace,
            started_at=started_at,
            ended_at=datetime.now(UTC),
            dry_run=round_.rules.dry_run,
            owns_key=round_.rules.owns_key,
            grace_s=round_.rules.grace_s,
            checks_rooms=self._rooms is not None,
            sessions=_foremost(sessions),
            rooms=_foremost(rooms),
            totals=JanitorTotals(
                sessions=len(sessions),
                sessions_by_decision=dict(Counter(one.decision for one in sessions)),
                rooms=len(rooms),
                rooms_by_decision=dict(Counter(one.decision for one in rooms)),
            ),
            problems=round_.problems[:MAX_PROBLEMS],
        )


def _foremost(lines: Sequence[Line]) -> list[Line]:
    """What somebody should see first, as many as a history should hold."""
    return sorted(lines, key=lambda one: _RANK[one.decision])[:MAX_LINES]


def _log(finding: JanitorFinding) -> None:
    """One line for a round that found something."""
    totals = finding.totals
    acted, would = totals.count(*ACTED), totals.count(*WOULD_ACT)
    failed = totals.count(Decision.FAILED)
    if not (acted or would or failed or finding.problems):
        return
    named = [
        f"{one.decision} {one.provider_session_id} ({one.workflow_id or 'stranger'})"
        for one in finding.sessions
        if one.decision in ACTED | WOULD_ACT | {Decision.FAILED}
    ] + [
        f"{one.decision} room {one.room} ({one.workflow_id})"
        for one in finding.rooms
        if one.decision in ACTED | WOULD_ACT | {Decision.FAILED}
    ]
    logger.warning(
        "janitor: %s%d ended, %d failed, %d problems%s",
        f"dry run, {would} would have ended; " if finding.dry_run else "",
        acted,
        failed,
        len(finding.problems),
        "".join(f"; {text}" for text in [*named[:10], *finding.problems[:3]]),
    )
