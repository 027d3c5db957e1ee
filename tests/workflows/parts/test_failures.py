"""What each failure of an activity means to a session, with the SDK's own exceptions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType

from avatar_sessions.contract.activities import ClipCursor, ErrorType
from avatar_sessions.contract.reports import Failure
from tests.support.activity_errors import activity_error, cancelled, refused, timed_out
from workflows.parts import failures

NOT_OWNER = refused(ErrorType.NOT_OWNER)
NOT_TAKEN = timed_out(TimeoutType.SCHEDULE_TO_START)
NO_ANSWER = timed_out(TimeoutType.START_TO_CLOSE)
NO_HEARTBEAT = timed_out(TimeoutType.HEARTBEAT)
NO_TIME_LEFT = timed_out(TimeoutType.SCHEDULE_TO_CLOSE)
TIMEOUTS = (NOT_TAKEN, NO_ANSWER, NO_HEARTBEAT, NO_TIME_LEFT)
EVERY_KIND = (NOT_OWNER, *TIMEOUTS, refused("Other"), activity_error(None), cancelled())


def matching(predicate: object) -> list[ActivityError]:
    assert callable(predicate)
    return [error for error in EVERY_KIND if predicate(error)]


# ------------------------------------------------------------------- the failure's text


def test_the_failure_in_an_error_s_details_is_shown() -> None:
    told = Failure(type="NoCredits", message="no credits left", http_status=403, code=4003)
    error = refused("Anything", details=("unrelated", told.model_dump(mode="json")))
    assert failures.failure_of(error) == told


def test_an_application_error_without_details_is_shown_by_type_and_message() -> None:
    assert failures.failure_of(refused("Odd", "it broke")) == Failure(
        type="Odd", message="it broke"
    )
    untyped = activity_error(ApplicationError("it broke"))
    assert failures.failure_of(untyped).type == "ApplicationError"


@pytest.mark.parametrize(
    ("error", "type_", "text"),
    [
        (NOT_TAKEN, "NoWorker", "no worker took start_session in time"),
        (NO_HEARTBEAT, "WorkerLost", "the worker died or hung during start_session"),
        (NO_ANSWER, "ActivityTimedOut", "start_session reached its start-to-close timeout"),
        (NO_TIME_LEFT, "ActivityTimedOut", "start_session reached its schedule-to-close timeout"),
        (timed_out(None), "ActivityTimedOut", "start_session reached its timeout"),
    ],
)
def test_a_timeout_is_shown_by_its_kind(error: ActivityError, type_: str, text: str) -> None:
    failure = failures.failure_of(error)
    assert failure.type == type_
    assert failure.message.startswith(text)


def test_the_last_attempt_s_error_is_shown_rather_than_the_timeout_of_all_attempts() -> None:
    inner = ApplicationError("LiveAvatar answered 503", type="ServiceUnavailable")
    error = timed_out(TimeoutType.SCHEDULE_TO_CLOSE, cause=inner)
    assert failures.failure_of(error).message == "LiveAvatar answered 503"


def test_any_other_cause_is_shown_by_its_class() -> None:
    assert failures.failure_of(cancelled()).type == "CancelledError"
    assert failures.failure_of(activity_error(None)).type == "ActivityError"


# ------------------------------------------------------------------------ the owner


def test_a_task_reached_no_owner_if_it_was_not_taken_or_another_process_owns_the_session() -> None:
    assert matching(failures.never_reached_owner) == [NOT_OWNER, NOT_TAKEN]
    assert matching(failures.is_not_taken) == [NOT_TAKEN]


def test_every_timeout_is_a_timeout_and_only_one_of_them_a_heartbeat_timeout() -> None:
    assert matching(failures.timed_out) == list(TIMEOUTS)
    assert matching(failures.is_heartbeat_timeout) == [NO_HEARTBEAT]


def test_a_command_is_repeated_unless_the_owner_itself_refused_it() -> None:
    assert matching(failures.may_be_repeated) == [NOT_OWNER, *TIMEOUTS]


def test_the_last_heartbeat_says_how_far_a_clip_came() -> None:
    cursor = ClipCursor(
        generation=2, sent_bytes=4800, heard_bytes=2400, dry_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    error = timed_out(TimeoutType.HEARTBEAT, heartbeat=(cursor.model_dump(mode="json"),))
    assert failures.last_heartbeat(error, ClipCursor) == cursor
    assert failures.last_heartbeat(NO_HEARTBEAT, ClipCursor) is None
    assert failures.last_heartbeat(NOT_OWNER, ClipCursor) is None


# ------------------------------------------------------------------------ retries


def test_only_a_retryable_application_error_has_a_retry_delay() -> None:
    named = refused("Busy", retryable=True, retry_delay=timedelta(seconds=7))
    assert failures.retry_delay(named) == timedelta(seconds=7)
    assert failures.retry_delay(refused("Busy", retryable=True)) == timedelta(0)
    assert failures.retry_delay(refused("Busy")) is None
    assert failures.retry_delay(NO_ANSWER) is None


@pytest.mark.parametrize("type_", ["ConcurrencyLimit", "RateLimited"])
def test_http_429_is_a_limit_to_wait_for(type_: str) -> None:
    assert failures.limit_waited_for(refused(type_, retryable=True)) == failures.LIMIT_WAITS[type_]


def test_nothing_else_is_waited_for() -> None:
    assert failures.limit_waited_for(refused("NoCredits", retryable=True)) is None
    assert failures.limit_waited_for(refused("RateLimited")) is None
    assert failures.limit_waited_for(NO_ANSWER) is None


# --------------------------------------------------------------------------- /start


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (refused(ErrorType.START_OUTCOME_UNKNOWN), True),
        (refused(failures.WORKER_SHUTDOWN), True),
        (NO_HEARTBEAT, True),
        (NO_ANSWER, True),
        (NO_TIME_LEFT, True),
        (NOT_TAKEN, False),
        (refused("NoCredits"), False),
        (cancelled(), False),
    ],
    ids=[
        "reply lost",
        "worker shut down",
        "worker died",
        "no reply",
        "no time left",
        "not taken",
        "refused",
        "cancelled",
    ],
)
def test_a_start_may_be_billed_unless_no_worker_took_it_or_it_was_refused(
    error: ActivityError, unknown: bool
) -> None:
    assert failures.start_outcome_unknown(error) is unknown


def test_an_error_type_is_that_of_an_application_error_only() -> None:
    assert failures.is_type(NOT_OWNER, ErrorType.NOT_OWNER)
    assert not failures.is_type(NOT_OWNER, ErrorType.DISCONNECTED)
    assert not failures.is_type(NO_ANSWER, ErrorType.NOT_OWNER)
