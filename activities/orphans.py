"""Sessions whose workflow was terminated: found by asking, and stopped by whoever holds them."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from enum import Enum, auto
from typing import Final

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from liveavatar_lite import LiteError, LiveAvatar

logger = logging.getLogger(__name__)

DESCRIBE_TIMEOUT_S: Final = 3.0
STOP_TRIES: Final = 10


class Standing(Enum):
    """Where the workflow of this activity stands."""

    OPEN = auto()
    CLOSED = auto()  # for good: no cleanup of its own will run
    UNKNOWN = auto()  # the server did not answer


async def standing_of_workflow() -> Standing:
    """Ask once whether the run of this activity's workflow is over for good."""
    info = activity.info()
    if info.workflow_id is None:
        return Standing.UNKNOWN
    workflow = activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
    try:
        async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
            described = await workflow.describe(rpc_timeout=timedelta(seconds=DESCRIBE_TIMEOUT_S))
    except (RPCError, TimeoutError) as error:
        if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
            return Standing.CLOSED
        logger.warning("the workflow cannot be described: %s", type(error).__name__)
        return Standing.UNKNOWN
    going_on = (
        None,
        WorkflowExecutionStatus.RUNNING,
        WorkflowExecutionStatus.CONTINUED_AS_NEW,
    )
    return Standing.OPEN if described.status in going_on else Standing.CLOSED


async def stop_if_terminated(liveavatar: LiveAvatar, provider_session_id: str) -> None:
    """Stop a session whose workflow runs no cleanup any more; in doubt, do not."""
    if await standing_of_workflow() is Standing.CLOSED:
        logger.warning("workflow is closed: stopping session %s", provider_session_id)
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
