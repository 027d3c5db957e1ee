"""Failures of activities as the Temporal SDK raises them in a workflow."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    RetryState,
    TimeoutError,
    TimeoutType,
)


def activity_error(cause: BaseException | None, activity: str = "start_session") -> ActivityError:
    """An activity that failed because of ``cause``."""
    error = ActivityError(
        "Activity task failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="test",
        activity_type=activity,
        activity_id="1",
        retry_state=RetryState.MAXIMUM_ATTEMPTS_REACHED,
    )
    error.__cause__ = cause
    return error


def refused(
    type_: str,
    message: str = "refused",
    *,
    details: tuple[Any, ...] = (),
    retryable: bool = False,
    retry_delay: timedelta | None = None,
) -> ActivityError:
    """An activity that raised an application error."""
    return activity_error(
        ApplicationError(
            message,
            *details,
            type=type_,
            non_retryable=not retryable,
            next_retry_delay=retry_delay,
        )
    )


def timed_out(
    type_: TimeoutType | None,
    *,
    heartbeat: tuple[Any, ...] = (),
    cause: BaseException | None = None,
) -> ActivityError:
    """An activity that reached a timeout; ``cause``: what its last attempt failed with."""
    timeout = TimeoutError("activity timeout", type=type_, last_heartbeat_details=heartbeat)
    timeout.__cause__ = cause
    return activity_error(timeout)


def cancelled() -> ActivityError:
    """An activity that was cancelled."""
    return activity_error(CancelledError("cancelled"))
