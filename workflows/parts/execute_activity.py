"""The one place where workflows execute an activity by name."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

Result = TypeVar("Result", bound=BaseModel)

SUMMARY_MAX_CHARS = 200
"""The server accepts 400 bytes; the timeline shows far less."""


async def execute(
    activity: str,
    payload: BaseModel,
    result_type: type[Result],
    config: ActivityConfig,
    *,
    summary: str,
    task_queue: str | None = None,
    start_to_close_timeout: timedelta | None = None,
    schedule_to_close_timeout: timedelta | None = None,
) -> Result:
    """Execute an activity under one of the named options; ``summary`` is its line in the timeline.

    Raises:
        ActivityError: the activity failed after its retries, or was cancelled.
    """
    options = config.copy()
    options["summary"] = summary[:SUMMARY_MAX_CHARS]
    if task_queue is not None:
        options["task_queue"] = task_queue
    if start_to_close_timeout is not None:
        options["start_to_close_timeout"] = start_to_close_timeout
    if schedule_to_close_timeout is not None:
        options["schedule_to_close_timeout"] = schedule_to_close_timeout
    result: Result = await workflow.execute_activity(
        activity, payload, result_type=result_type, **options
    )
    return result
