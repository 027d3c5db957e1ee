"""Stops LiveAvatar sessions and deletes rooms whose workflow has closed: one activity a round.

Safe to repeat and to run concurrently: it acts by id, and only on closed workflows. Where a status
is unknown, it leaves the session or room alone and reports the problem.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from temporalio import activity

from activities.heartbeats import heartbeating
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
    """Stops LiveAvatar sessions and deletes rooms whose workflow has closed."""

    def __init__(
        self,
        liveavatar: LiveAvatar,
        livekit: LiveKitSettings | None,
        rules: JanitorRules,
        metrics: JanitorMetrics,
    ) -> None:
        """``livekit`` is None in a deployment with hosted rooms only."""
        self._sessions = SessionSweep(liveavatar)
        self._rooms = None if livekit is None else RoomSweep(livekit)
        self._rules = rules
        self._metrics = metrics

    @activity.defn(name=names.ACTIVITY_REAP)
    async def reap(self, request: JanitorRound) -> JanitorFinding:
        """Make one round, of about a minute at most, and report every decision."""
        started_at = datetime.now(UTC)
        sweep = JanitorSweep(activity.client(), self._rules.restricted_by(request))
        async with heartbeating():
            sessions = await self._sessions.run(sweep)
            rooms = [] if self._rooms is None else await self._rooms.run(sweep)
        finding = self._finding(sweep, started_at, sessions, rooms)
        self._metrics.count(finding)
        _log(finding)
        return finding

    def _finding(
        self,
        sweep: JanitorSweep,
        started_at: datetime,
        sessions: Sequence[SessionFinding],
        rooms: Sequence[RoomFinding],
    ) -> JanitorFinding:
        return JanitorFinding(
            namespace=sweep.client.namespace,
            started_at=started_at,
            ended_at=datetime.now(UTC),
            dry_run=sweep.rules.dry_run,
            owns_key=sweep.rules.owns_key,
            grace_s=sweep.rules.grace_s,
            checks_rooms=self._rooms is not None,
            sessions=_most_important(sessions),
            rooms=_most_important(rooms),
            totals=JanitorTotals(
                sessions=len(sessions),
                sessions_by_decision=dict(Counter(one.decision for one in sessions)),
                rooms=len(rooms),
                rooms_by_decision=dict(Counter(one.decision for one in rooms)),
            ),
            problems=sweep.problems[:MAX_PROBLEMS],
        )


def _most_important(lines: Sequence[Line]) -> list[Line]:
    """The findings in order of importance, cut to what a history should hold."""
    return sorted(lines, key=lambda one: _RANK[one.decision])[:MAX_LINES]


def _log(finding: JanitorFinding) -> None:
    """Log one line for a round with an action, a failure or a problem."""
    totals = finding.totals
    acted, would_act = totals.count(*ACTED), totals.count(*WOULD_ACT)
    failed = totals.count(Decision.FAILED)
    if not (acted or would_act or failed or finding.problems):
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
        "janitor: %s%d stopped or deleted, %d failed, %d problems%s",
        f"dry run, {would_act} would be stopped or deleted; " if finding.dry_run else "",
        acted,
        failed,
        len(finding.problems),
        "".join(f"; {text}" for text in [*named[:10], *finding.problems[:3]]),
    )
