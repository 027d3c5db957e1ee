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
_NOT_TO_BE_TOLD: Final = (
    RPCStatusCode.PERMISSION_DENIED,
    RPCStatusCode.UNAUTHENTICATED,
    RPCStatusCode.UNIMPLEMENTED,
)
"""The server's refusals that asking again does not change."""


async def workflow_is_closed(tries: int) -> bool:
    """Whether the run of this activity's workflow is over for good; in doubt, no.

    Args:
        tries: how often to ask while the server does not answer.
    """
    return await _standing(tries) is _Standing.CLOSED


async def stop_if_terminated(
    liveavatar: LiveAvatar, provider_session_id: str, *, tries: int = 1
) -> None:
    """Stop a session whose workflow runs no cleanup any more; ``tries``: to find that out."""
    if await workflow_is_closed(tries):
        logger.warning("workflow is closed: stopping session %s", provider_session_id)
        await _stop_for_good(liveavatar, provider_session_id)


async def stop_if_unwanted(liveavatar: LiveAvatar, provider_session_id: str) -> None:
    """Stop a session that this attempt has, or may have, begun, if nobody hears of it any more.

    Its workflow is closed, or has given this attempt up and opened another session meanwhile.
    Asks for long: while the server does not answer, nobody can be told of the session either.
    """
    standing = await _standing(UNWANTED_TRIES)
    if standing is not _Standing.WANTED:
        logger.warning("%s: stopping session %s", standing.value, provider_session_id)
        await _stop_for_good(liveavatar, provider_session_id)


class _Standing(Enum):
    """How this attempt stands with its workflow, in words for the log."""

    WANTED = "the workflow waits for this attempt"
    GIVEN_UP = "the workflow has given this attempt up"
    CLOSED = "the workflow is closed"


async def _standing(tries: int) -> _Standing:
    """Ask the server; in doubt, this attempt is wanted."""
    info = activity.info()
    if info.workflow_id is None:
        return _Standing.WANTED
    workflow = activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
    for number in range(1, tries + 1):
        try:
            async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
                described = await workflow.describe(
                    rpc_timeout=timedelta(seconds=DESCRIBE_TIMEOUT_S)
                )
        except (RPCError, TimeoutError) as error:
            if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
                return _Standing.CLOSED
            logger.warning("workflow cannot be described, try %d", number)
            if isinstance(error, RPCError) and error.status in _NOT_TO_BE_TOLD:
                break
            if number < tries:
                await asyncio.sleep(1.0)
        else:
            if described.status not in (
                None,
                WorkflowExecutionStatus.RUNNING,
                WorkflowExecutionStatus.CONTINUED_AS_NEW,
            ):
                return _Standing.CLOSED
            pending = described.raw_description.pending_activities
            mine = (info.activity_id, info.attempt)
            wanted = mine in [(one.activity_id, one.attempt) for one in pending]
            return _Standing.WANTED if wanted else _Standing.GIVEN_UP
    return _Standing.WANTED


async def _stop_for_good(liveavatar: LiveAvatar, provider_session_id: str) -> None:
    """Stop a session that nobody else will, a few times if need be."""
    for number in range(STOP_TRIES):
        try:
            await liveavatar.stop_session(provider_session_id)
        except LiteError as error:
            logger.warning("stop failed, try %d: %s", number + 1, error)
            await asyncio.sleep(min(8.0, 0.5 * 2**number))
        else:
            return
