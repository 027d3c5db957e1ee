"""Runs one round of the janitor by hand: starts it, waits for it, and returns its finding."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

from avatar_sessions.contract import names
from avatar_sessions.contract.janitor import JanitorFinding, JanitorRound
from avatar_sessions.errors import (
    AnswerTimedOut,
    AvatarSessionsError,
    NoAnswer,
    WorkersMissing,
)
from avatar_sessions.rpc import RPC_TIMEOUT, WorkflowGone, WorkflowRpc, as_json, parsed

ROUND_TIMEOUT_S: Final = 90.0
HOW_TO_RUN: Final = "run one with `python -m workers --role janitor` (role all includes it)"


class JanitorMissing(NoAnswer):
    """Temporal answers, and no janitor ran the round."""

    def __init__(self, address: str, namespace: str, waited_s: float | None = None) -> None:
        within = "" if waited_s is None else f" within {waited_s:g} s"
        super().__init__(
            f"no janitor answered{within} at {address}, namespace {namespace}: {HOW_TO_RUN}."
            " Nothing was ended, and the round was terminated"
        )


class JanitorFailed(AvatarSessionsError):
    """The round failed; Temporal shows its workflow."""

    def __init__(self, workflow_id: str, problem: str) -> None:
        super().__init__(f"the round {workflow_id} failed: {problem}")


async def run_round(
    client: Client, round_: JanitorRound, *, timeout_s: float = ROUND_TIMEOUT_S
) -> JanitorFinding:
    """Run one round of a janitor now, independently of its schedule.

    Args:
        client: a client of the sessions' namespace.
        round_: the request; it can be stricter than the worker's settings.
        timeout_s: how many seconds to wait for the finding.

    Raises:
        JanitorMissing: no janitor ran it, or none finished it in time; the round is terminated.
        JanitorFailed: the round failed.
        TemporalUnreachable: the server does not answer, or refuses this client.
    """
    rpc = WorkflowRpc(client, names.JANITOR_TASK_QUEUE)
    workflow_id = names.JANITOR_BY_HAND_PREFIX + uuid4().hex[:12]
    handle = await rpc.short(
        client.start_workflow(
            names.JANITOR_WORKFLOW_TYPE,
            as_json(round_),
            id=workflow_id,
            task_queue=names.JANITOR_TASK_QUEUE,
            execution_timeout=timedelta(seconds=max(timeout_s, 1.0) + 5),
            task_timeout=timedelta(seconds=names.WORKFLOW_TASK_TIMEOUT_S),
            static_summary="dry run, by hand" if round_.dry_run else "by hand",
            rpc_timeout=RPC_TIMEOUT,
        )
    )

    try:
        answer: Any = await rpc.answer(
            handle.result, requested="a round", session_key=workflow_id, timeout_s=timeout_s
        )
    except (WorkersMissing, AnswerTimedOut) as error:
        waited_s = timeout_s if isinstance(error, AnswerTimedOut) else None
        # Otherwise a janitor could run it later, after this call has reported that none did.
        with contextlib.suppress(WorkflowGone):  # it has just closed
            await rpc.short(handle.terminate("no janitor ran it in time", rpc_timeout=RPC_TIMEOUT))
        raise JanitorMissing(rpc.address, client.namespace, waited_s) from error
    except WorkflowFailureError as error:
        raise JanitorFailed(workflow_id, _problem(error)) from error
    return parsed(JanitorFinding, answer)


def _problem(error: WorkflowFailureError) -> str:
    cause: BaseException | None = error.cause
    while isinstance(cause, ActivityError) and cause.cause is not None:
        cause = cause.cause
    if isinstance(cause, ApplicationError | FailureError):
        return f"{cause.message} ({type(cause).__name__})"
    return str(cause)
