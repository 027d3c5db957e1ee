"""The janitor's workflow: one round a run, started by a schedule or by hand.

A round is one activity, safe to repeat and to run concurrently; its finding is the result.
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

from workflows.parts.execute_activity import execute

REAP: Final = ActivityConfig(
    task_queue=names.JANITOR_TASK_QUEUE,
    # The activity starts no call after 40 s; a call in progress takes 25 s at most.
    start_to_close_timeout=timedelta(seconds=75),
    schedule_to_close_timeout=timedelta(seconds=110),
    # If the janitor's process dies, another one repeats the round.
    heartbeat_timeout=timedelta(seconds=8),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_attempts=3),
)
MAX_DETAIL_LINES: Final = 10
"""Findings of each kind on the workflow's page; the result has all of them."""


@workflow.defn(name=names.JANITOR_WORKFLOW_TYPE)
class AvatarJanitor:
    """One round of the janitor."""

    @workflow.run
    async def run(self, *inputs: Any) -> JanitorFinding:
        """Stop the sessions and delete the rooms whose workflow has closed; return the finding.

        Raises:
            ApplicationError: the input is not a ``JanitorRound``.
            ActivityError: no janitor completed the round.
        """
        request = validated(inputs)
        finding = await execute(
            names.ACTIVITY_REAP,
            request,
            JanitorFinding,
            REAP,
            summary="dry run: find sessions and rooms of closed workflows"
            if request.dry_run
            else "stop sessions and delete rooms of closed workflows",
        )
        workflow.set_current_details(details_of(finding))
        return finding


def validated(inputs: tuple[Any, ...]) -> JanitorRound:
    """The round that the workflow's input asks for.

    Raises:
        ApplicationError: the input is not a ``JanitorRound``.
    """
    try:
        return JanitorRound.model_validate(one_message(inputs))
    except ValueError as error:
        problem = problems_of(error) if isinstance(error, ValidationError) else str(error)
        # Not retryable: a misspelt dry run must not become a real round.
        raise ApplicationError(problem, type="InvalidRound", non_retryable=True) from None


def details_of(finding: JanitorFinding) -> str:
    """What the workflow's page shows of a round, as Markdown."""
    totals = finding.totals
    acted = totals.count(*ACTED)
    lines = [
        f"{totals.sessions} billed LiveAvatar sessions, {totals.rooms} marked rooms:"
        f" **{acted} stopped or deleted**, {totals.count(Decision.FAILED)} failed,"
        f" {totals.sessions_by_decision.get(Decision.STRANGER, 0)} strangers left alone"
    ]
    if finding.dry_run:
        lines.append(f"**dry run**: {totals.count(*WOULD_ACT)} would be stopped or deleted")
    lines += [f"problem: {problem}" for problem in finding.problems[:MAX_DETAIL_LINES]]
    lines += [
        f"- session `{one.provider_session_id}`: **{one.decision}**, {one.why}"
        for one in finding.sessions[:MAX_DETAIL_LINES]
    ]
    lines += [
        f"- room `{one.room}`: **{one.decision}**, {one.why}"
        for one in finding.rooms[:MAX_DETAIL_LINES]
    ]
    return "\n\n".join(lines)
