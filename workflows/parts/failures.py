"""What the failure of an activity means to a session, in the contract's words."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, TypeVar

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
    from avatar_sessions.contract.reports import Failure

Details = TypeVar("Details", bound=BaseModel)
WORKER_SHUTDOWN: Final = "WorkerShutdown"
"""The SDK's own error type: the worker shut down during the activity."""
LIMIT_WAITS: Final = {
    "ConcurrencyLimit": "a free LiveAvatar session: the plan's limit is reached",
    "RateLimited": "LiveAvatar's rate limit: there were too many calls",
}
"""What a call waits for at LiveAvatar's two limits (403 code 4003, and 429), by failure type."""


def failure_of(error: ActivityError) -> Failure:
    """The failure to show to a person: the activity's own, or the timeout that was reached."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return failure_of_application_error(cause)
    if isinstance(cause, TimeoutError):
        if cause.type is TimeoutType.SCHEDULE_TO_START:
            return Failure(
                type="NoWorker",
                message=f"no worker took {error.activity_type} in time: none runs, or all are full",
            )
        inner = cause.cause
        if isinstance(inner, ApplicationError):
            return failure_of_application_error(inner)
        if cause.type is TimeoutType.HEARTBEAT:
            return Failure(
                type="WorkerLost", message=f"the worker died or hung during {error.activity_type}"
            )
        kind = "" if cause.type is None else cause.type.name.lower().replace("_", "-") + " "
        return Failure(
            type="ActivityTimedOut", message=f"{error.activity_type} reached its {kind}timeout"
        )
    return Failure(type=type(cause or error).__name__, message=str(cause or error))


def failure_of_application_error(error: ApplicationError) -> Failure:
    """The failure in an application error's details, or one made of its type and message."""
    for detail in error.details:
        if isinstance(detail, dict) and "type" in detail and "message" in detail:
            return Failure.model_validate(detail)
    return Failure(type=error.type or "ApplicationError", message=error.message)


def is_type(error: ActivityError, wanted: ErrorType) -> bool:
    """Whether an activity failed with this error type of the contract."""
    return isinstance(error.cause, ApplicationError) and error.cause.type == wanted


def never_reached_owner(error: ActivityError) -> bool:
    """Whether no owner acted on a task: no process polls its queue, or it is not the owner."""
    return is_type(error, ErrorType.NOT_OWNER) or is_not_taken(error)


def is_not_taken(error: ActivityError) -> bool:
    """Whether no worker took the task (schedule-to-start timeout)."""
    cause = error.cause
    return isinstance(cause, TimeoutError) and cause.type is TimeoutType.SCHEDULE_TO_START


def timed_out(error: ActivityError) -> bool:
    """Whether an activity reached any of its timeouts."""
    return isinstance(error.cause, TimeoutError)


def is_heartbeat_timeout(error: ActivityError) -> bool:
    """Whether the worker of an activity stopped sending heartbeats."""
    cause = error.cause
    return isinstance(cause, TimeoutError) and cause.type is TimeoutType.HEARTBEAT


def last_heartbeat(error: ActivityError, kind: type[Details]) -> Details | None:
    """The last heartbeat details of an activity that timed out; None if it sent none."""
    cause = error.cause
    if not isinstance(cause, TimeoutError) or not cause.last_heartbeat_details:
        return None
    return kind.model_validate(cause.last_heartbeat_details[0])


def may_be_repeated(error: ActivityError) -> bool:
    """Whether the owner may be gone or slow: the same command may be delivered again."""
    return never_reached_owner(error) or timed_out(error)


def retry_delay(error: ActivityError) -> timedelta | None:
    """When a retry could succeed: after this time, zero if none was named; None: never."""
    cause = error.cause
    if not isinstance(cause, ApplicationError) or cause.non_retryable:
        return None
    return cause.next_retry_delay or timedelta(0)


def limit_waited_for(error: ActivityError) -> str | None:
    """The LiveAvatar limit that a call must wait for, in words; None for every other failure."""
    if retry_delay(error) is None:
        return None
    return LIMIT_WAITS.get(failure_of(error).type)


def start_outcome_unknown(error: ActivityError) -> bool:
    """Whether ``/start`` may have begun billing although the workflow has no reply.

    So if the reply was lost, or the worker was: it died, hung (no heartbeats), or shut down before
    the reply arrived.
    """
    cause = error.cause
    if isinstance(cause, TimeoutError):
        return cause.type is not TimeoutType.SCHEDULE_TO_START
    return is_type(error, ErrorType.START_OUTCOME_UNKNOWN) or (
        isinstance(cause, ApplicationError) and cause.type == WORKER_SHUTDOWN
    )
