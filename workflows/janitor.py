"""The janitor: one round a run, started by a schedule or by hand.

A round is one activity that may be repeated and may run twice at once; its finding is the result.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from avatar_sessions.contract import names
    from avatar_sessions.contract.janitor import (
        ACTED,
        WOULD_ACT,
        Decision,
        JanitorFinding,
        JanitorRound,
    )
    from avatar_sessions.contract.messages import one_message, problems_of

from workflows.parts.execute import call

REAP: Final = ActivityConfig(
    task_queue=names.JANITOR_TASK_QUEUE,
    # A round looks at the clock itself after 40 s; what it is in then takes 25 s at most.
    start_to_close_timeout=timedelta(seconds=75),
    schedule_to_close_timeout=timedelta(seconds=110),
    # A janitor that was killed in a round: another one makes it anew.
    heartbeat_timeout=timedelta(seconds=8),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_attempts=3),
)
TOLD_LINES: Final = 10
"""Lines on the workflow's page; its result has all."""


@workflow.defn(name=names.JANITOR_WORKFLOW_TYPE)
class AvatarJanitor:
    """One round of the janitor."""

    @workflow.run
    async def run(self, *inputs: Any) -> JanitorFinding:
        """Look for what nobody lives in, end it, and tell.

        Raises:
            ApplicationError: the input is no ``JanitorRound``.
            ActivityError: no janitor could finish a round.
        """
        asked = _understood(inputs)
        finding = await call(
            names.ACTIVITY_REAP,
            asked,
            JanitorFinding,
            REAP,
            summary="dry run: find what nobody lives in"
            if asked.dry_run
            else "find what nobody lives in, and end it",
        )
        workflow.set_current_details(_details(finding))
        return finding


def _understood(inputs: tuple[Any, ...]) -> JanitorRound:
    try:
        return JanitorRound.model_validate(one_message(inputs))
    except ValueError as error:
        problem = problems_of(error) if isinstance(error, ValidationError) else str(error)
        # Refused for good: a misspelt dry run must not become a real one.
        raise ApplicationError(problem, type="InvalidRound", non_retryable=True) from None


def _details(finding: JanitorFinding) -> str:
    totals = finding.totals
    acted = totals.count(*ACTED)
    lines = [
        f"{totals.sessions} LiveAvatar sessions are billed, {totals.rooms} rooms are ours:"
        f" **{acted} ended**, {totals.count(Decision.FAILED)} failed,"
        f" {totals.sessions_by_decision.get(Decision.STRANGER, 0)} strangers left alone"
    ]
    if finding.dry_run:
        lines.append(f"**dry run**: {totals.count(*WOULD_ACT)} would have been ended")
    lines += [f"problem: {problem}" for problem in finding.problems[:TOLD_LINES]]
    lines += [
        f"- session `{one.provider_session_id}`: **{one.decision}**, {one.why}"
        for one in finding.sessions[:TOLD_LINES]
    ]
    lines += [
        f"- room `{one.room}`: **{one.decision}**, {one.why}" for one in finding.rooms[:TOLD_LINES]
    ]
    return "\n\n".join(lines)
