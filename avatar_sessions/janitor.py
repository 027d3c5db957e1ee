"""One round of the janitor by hand: asked for, waited for, and its finding read."""

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
from avatar_sessions.rpc import RPC_TIMEOUT, WorkflowGone, WorkflowRpc, as_json, understood

ROUND_TIMEOUT_S: Final = 90.0
HOW_TO_RUN: Final = "run one with `python -m workers --role janitor` (role all is one, too)"


class JanitorMissing(NoAnswer):
    """Temporal answers, and no janitor took the round."""

    def __init__(self, address: str, namespace: str, waited_s: float | None = None) -> None:
        within = "" if waited_s is None else f" within {waited_s:g} s"
        super().__init__(
            f"no janitor answered{within} at {address}, namespace {namespace}: {HOW_TO_RUN}."
            " Nothing was ended, and this round was withdrawn"
        )


class JanitorFailed(AvatarSessionsError):
    """The round itself broke; it is to be found in Temporal."""

    def __init__(self, workflow_id: str, problem: str) -> None:
        super().__init__(f"the round {workflow_id} failed: {problem}")


async def make_round(
    client: Client, round_: JanitorRound, *, timeout_s: float = ROUND_TIMEOUT_S
) -> JanitorFinding:
    """Have a janitor make one round now, whatever its schedule says.

    Args:
        client: of the namespace whose sessions are ours.
        round_: may be more careful than the janitor's own settings.
        timeout_s: for its finding.

    Raises:
        JanitorMissing: no janitor took it, or none finished it in time; it is withdrawn.
        JanitorFailed: the round broke.
        TemporalUnreachable: the server does not answer, or refuses.
    """
    calls = WorkflowRpc(client, names.JANITOR_TASK_QUEUE)
    workflow_id = names.JANITOR_BY_HAND_PREFIX + uuid4().hex[:12]
    handle = await calls.short(
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
        answer: Any = await calls.answer(
            handle.result, asked="a round", session_key=workflow_id, timeout_s=timeout_s
        )
    except (WorkersMissing, AnswerTimedOut) as error:
        waited_s = timeout_s if isinstance(error, AnswerTimedOut) else None
        # Else it would be made later, when nobody looks.
        with contextlib.suppress(WorkflowGone):  # it is over this very moment
            await calls.short(handle.terminate("nobody took it", rpc_timeout=RPC_TIMEOUT))
        raise JanitorMissing(calls.address, client.namespace, waited_s) from error
    except WorkflowFailureError as error:
        raise JanitorFailed(workflow_id, _words(error)) from error
    return understood(JanitorFinding, answer)


def _words(error: WorkflowFailureError) -> str:
    cause: BaseException | None = error.cause
    while isinstance(cause, ActivityError) and cause.cause is not None:
        cause = cause.cause
    if isinstance(cause, ApplicationError | FailureError):
        return f"{cause.message} ({type(cause).__name__})"
    return str(cause)
