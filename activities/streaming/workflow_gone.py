"""Stops LiveAvatar sessions that no workflow will stop, after asking the server about them.

A workflow that was terminated runs no cleanup. A workflow that has timed out an attempt, because
its heartbeats did not arrive, never learns of a session that the attempt started later.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import sleep  # by name: a test replaces it here and nowhere else
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
_OPEN: Final = (
    None,
    WorkflowExecutionStatus.RUNNING,
    WorkflowExecutionStatus.CONTINUED_AS_NEW,
)


class AttemptStatus(Enum):
    """Whether the workflow waits for this attempt; the value is text for the log."""

    WANTED = "the workflow waits for this attempt"
    TIMED_OUT = "the workflow has timed this attempt out"
    CLOSED = "the workflow is closed"  # and runs no cleanup any more
    FORBIDDEN = "this worker may not describe the workflow"
    UNKNOWN = "the server does not answer"


async def attempt_status() -> AttemptStatus:
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
            return AttemptStatus.FORBIDDEN
        return AttemptStatus.UNKNOWN
    if described.status not in _OPEN:
        return AttemptStatus.CLOSED
    pending = described.raw_description.pending_activities
    this = (info.activity_id, info.attempt)
    wanted = this in [(one.activity_id, one.attempt) for one in pending]
    return AttemptStatus.WANTED if wanted else AttemptStatus.TIMED_OUT


async def stop_if_terminated(liveavatar: LiveAvatar, provider_session_id: str) -> None:
    """Stop a session whose workflow is closed and runs no cleanup; in doubt, do not."""
    if await attempt_status() is AttemptStatus.CLOSED:
        logger.warning("workflow is closed: stopping session %s", provider_session_id)
        await stop_with_retries(liveavatar, provider_session_id)


async def stop_if_unwanted(liveavatar: LiveAvatar, provider_session_id: str) -> None:
    """Stop a session that this attempt may have started, if its workflow never learns of it.

    The workflow is closed, or has timed this attempt out and started another session meanwhile.
    Asks for long: while the server does not answer, the session cannot be reported either.
    """
    status = await attempt_status()
    for _ in range(UNWANTED_TRIES - 1):
        if status is not AttemptStatus.UNKNOWN:
            break
        await sleep(1.0)
        status = await attempt_status()
    if status in (AttemptStatus.CLOSED, AttemptStatus.TIMED_OUT):
        logger.warning("%s: stopping session %s", status.value, provider_session_id)
        await stop_with_retries(liveavatar, provider_session_id)


async def stop_with_retries(liveavatar: LiveAvatar, provider_session_id: str) -> None:
    """Stop a session that no workflow will stop, with retries."""
    for number in range(STOP_TRIES):
        try:
            await liveavatar.stop_session(provider_session_id)
        except LiteError as error:
            logger.warning("stop failed, try %d: %s", number + 1, error)
            await sleep(min(8.0, 0.5 * 2**number))
        else:
            return
