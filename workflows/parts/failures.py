"""What an activity's failure means to a session, in the contract's words."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    TimeoutError,
    TimeoutType,
)

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

    from avatar_sessions.contract.activities import ErrorType
    from avatar_sessions.contract.messages import Failure

Details = TypeVar("Details", bound=BaseModel)
WORKER_SHUTDOWN = "WorkerShutdown"
"""The SDK's own: an activity was cut because its worker went away."""


def failure_of(error: ActivityError) -> Failure:
    """The failure a person should read: the activity's own words, or which time ran out."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return failure_of_application_error(cause)
    if isinstance(cause, TimeoutError):
        if cause.type is TimeoutType.SCHEDULE_TO_START:
            return Failure(
                type="NoWorker",
                message=f"no worker took {error.activity_type} in time: none runs, or all are full",
            )
        kind = "its time" if cause.type is None else cause.type.name.lower().replace("_", "-")
        inner = cause.cause
        if isinstance(inner, ApplicationError):
            return failure_of_application_error(inner)
        if cause.type is TimeoutType.HEARTBEAT:
            return Failure(
                type="WorkerLost", message=f"the worker died or hung during {error.activity_type}"
            )
        return Failure(
            type="ActivityTimedOut", message=f"{error.activity_type} ran into {kind} timeout"
        )
    return Failure(type=type(cause or error).__name__, message=str(cause or error))


def failure_of_application_error(error: ApplicationError) -> Failure:
    """The failure an activity described in its error's details."""
    for detail in error.details:
        if isinstance(detail, dict) and "type" in detail and "message" in detail:
            return Failure.model_validate(detail)
    return Failure(type=error.type or "ApplicationError", message=error.message)


def is_type(error: ActivityError, wanted: ErrorType) -> bool:
    """Whether an activity failed with one of our own error types."""
    return isinstance(error.cause, ApplicationError) and error.cause.type == wanted


def never_reached_owner(error: ActivityError) -> bool:
    """Whether nobody acted on a task for the owner: its queue is silent, or it owns no more."""
    return is_type(error, ErrorType.NOT_OWNER) or is_not_taken(error)


def is_not_taken(error: ActivityError) -> bool:
    """Whether nobody even took the task: no process polls that queue any more."""
    cause = error.cause
    return isinstance(cause, TimeoutError) and cause.type is TimeoutType.SCHEDULE_TO_START


def timed_out(error: ActivityError) -> bool:
    """Whether a task was not taken, or taken and not answered, in its time."""
    return isinstance(error.cause, TimeoutError)


def is_heartbeat_timeout(error: ActivityError) -> bool:
    """Whether whoever did it has fallen silent."""
    cause = error.cause
    return isinstance(cause, TimeoutError) and cause.type is TimeoutType.HEARTBEAT


def last_heartbeat(error: ActivityError, kind: type[Details]) -> Details | None:
    """What an activity that timed out had told last, if it had told anything."""
    cause = error.cause
    if not isinstance(cause, TimeoutError) or not cause.last_heartbeat_details:
        return None
    return kind.model_validate(cause.last_heartbeat_details[0])


def may_be_repeated(error: ActivityError) -> bool:
    """Whether an owner may simply be gone, or slow: the same command may be given again."""
    return never_reached_owner(error) or timed_out(error)


def retry_delay(error: ActivityError) -> timedelta | None:
    """When a later try could work: after the returned time, zero if none was named; None: never."""
    cause = error.cause
    if not isinstance(cause, ApplicationError) or cause.non_retryable:
        return None
    return cause.next_retry_delay or timedelta(0)


def limit_waited_for(error: ActivityError) -> str | None:
    """What a call waits for, in words, if nothing but its turn is missing; None: something else."""
    if retry_delay(error) is None:
        return None
    return _LIMITS.get(failure_of(error).type)


_LIMITS = {
    "ConcurrencyLimit": "a free LiveAvatar session: the plan's limit is reached",
    "RateLimited": "LiveAvatar's rate limit: there were too many calls",
}


def start_outcome_unknown(error: ActivityError) -> bool:
    """Whether ``/start`` may have begun billing without our knowing.

    That is so when its reply was lost, and when its worker was: it died or hung (no heartbeats), or
    was shut down before the reply came.
    """
    cause = error.cause
    if isinstance(cause, TimeoutError):
        return cause.type is not TimeoutType.SCHEDULE_TO_START
    return is_type(error, ErrorType.START_OUTCOME_UNKNOWN) or (
        isinstance(cause, ApplicationError) and cause.type == WORKER_SHUTDOWN
    )
