"""Sessions that no workflow will stop: found by asking, and stopped by whoever holds them.

A workflow that was terminated runs no cleanup. One that gave up an attempt of ours (its
heartbeats did not arrive) hears nothing of what the attempt began later.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from enum import Enum
from typing import Final

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from liveavatar_lite import LiteError, LiveAvatar

logger = logging.getLogger(__name__)

DESCRIBE_TIMEOUT_S: Final = 3.0
STOP_TRIES: Final = 10
UNWANTED_TRIES: Final = 20
_REFUSED: Final = (
    RPCStatusCode.PERMISSION_DENIED,
    RPCStatusCode.UNAUTHENTICATED,
    RPCStatusCode.UNIMPLEMENTED,
)
_GOING_ON: Final = (
    None,
    WorkflowExecutionStatus.RUNNING,
    WorkflowExecutionStatus.CONTINUED_AS_NEW,
)


class AttemptStatus(Enum):
    """How this attempt stands with its workflow, in words for the log."""

    WANTED = "the workflow waits for this attempt"
    GIVEN_UP = "the workflow has given this attempt up"
    CLOSED = "the workflow is closed"  # for good: no cleanup of its own will run
    UNTOLD = "the server does not tell"  # this worker may not ask
    UNKNOWN = "the server does not answer"


async def standing_of_attempt() -> AttemptStatus:
    """Ask the server once; see `AttemptStatus`."""
    info = activity.info()
    if info.workflow_id is None:
        return AttemptStatus.UNKNOWN
    workflow = activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
    try:
        async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
            described = await workflow.describe(rpc_timeout=timedelta(seconds=DESCRIBE_TIMEOUT_S))
    except (RPCError, TimeoutError) as error:
        if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
            return AttemptStatus.CLOSED
        logger.warning("the workflow cannot be described: %s", type(error).__name__)
        if isinstance(error, RPCError) and error.status in _REFUSED:
            return AttemptStatus.UNTOLD
        return AttemptStatus.UNKNOWN
    if described.status not in _GOING_ON:
        return AttemptStatus.CLOSED
    pending = described.raw_description.pending_activities
    mine = (info.activity_id, info.attempt)
    wanted = mine in [(one.activity_id, one.attempt) for one in pending]
    return AttemptStatus.WANTED if wanted else AttemptStatus.GIVEN_UP


async def stop_if_terminated(liveavatar: LiveAvatar, provider_session_id: str) -> None:
    """Stop a session whose workflow runs no cleanup any more; in doubt, do not."""
    if await standing_of_attempt() is AttemptStatus.CLOSED:
        logger.warning("workflow is closed: stopping session %s", provider_session_id)
        await stop_for_good(liveavatar, provider_session_id)


async def stop_if_unwanted(liveavatar: LiveAvatar, provider_session_id: str) -> None:
    """Stop a session that this attempt has, or may have, begun, if nobody hears of it any more.

    Its workflow is closed, or has given this attempt up and opened another session meanwhile.
    Asks for long: while the server does not answer, nobody can be told of the session either.
    """
    standing = await standing_of_attempt()
    for _ in range(UNWANTED_TRIES - 1):
        if standing is not AttemptStatus.UNKNOWN:
            break
        await asyncio.sleep(1.0)
        standing = await standing_of_attempt()
    if standing in (AttemptStatus.CLOSED, AttemptStatus.GIVEN_UP):
        logger.warning("%s: stopping session %s", standing.value, provider_session_id)
        await stop_for_good(liveavatar, provider_session_id)


async def stop_for_good(liveavatar: LiveAvatar, provider_session_id: str) -> None:
    """Stop a session that nobody else will, a few times if need be."""
    for number in range(STOP_TRIES):
        try:
            await liveavatar.stop_session(provider_session_id)
        except LiteError as error:
            logger.warning("stop failed, try %d: %s", number + 1, error)
            await asyncio.sleep(min(8.0, 0.5 * 2**number))
        else:
            return
