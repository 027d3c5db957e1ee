"""Errors of the LITE library as application errors: which are retried, and what they carry."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities import failures
from avatar_sessions.contract.activities import ErrorType
from avatar_sessions.contract.reports import Failure
from avatar_sessions.seal import Seal
from liveavatar_lite import ApiError, ConcurrencyLimit, OutcomeUnknown, RateLimited


def detail(error: Any) -> Failure:
    return Failure.model_validate(error.details[0])


def test_an_error_carries_the_contract_s_failure() -> None:
    error = failures.application_error(ApiError(422, 4220, "avatar_id: required"))
    failure = detail(error)
    assert failure.type == error.type == "ApiError"
    assert (failure.http_status, failure.code) == (422, 4220)
    assert failure.message == error.message
    assert failure.message.startswith("LiveAvatar answered 422/4220")


def test_an_error_that_a_retry_cannot_help_is_not_retryable() -> None:
    error = failures.application_error(ApiError(401))
    assert error.non_retryable
    assert error.next_retry_delay is None


@pytest.mark.parametrize(
    ("limit", "pause"),
    [
        (ConcurrencyLimit(403, 4003), failures.CONCURRENCY_RETRY),
        (ConcurrencyLimit(403, 4003, retry_after_s=4), timedelta(seconds=4)),
        (RateLimited(429), failures.RATE_RETRY),
        (RateLimited(429, retry_after_s=7), timedelta(seconds=7)),
    ],
)
def test_a_limit_is_retried_after_the_pause_that_liveavatar_named(
    limit: ApiError, pause: timedelta
) -> None:
    assert failures.limit_delay(limit) == pause
    error = failures.application_error(limit)
    assert not error.non_retryable
    assert error.next_retry_delay == pause


def test_no_other_error_is_a_limit() -> None:
    assert failures.limit_delay(ApiError(503, retry_after_s=3)) is None
    assert failures.retry_after(ApiError(503, retry_after_s=3)) == timedelta(seconds=3)
    assert failures.retry_after(OutcomeUnknown("no reply")) is None


def test_a_start_whose_outcome_is_unknown_is_never_retried() -> None:
    error = failures.start_outcome_unknown(OutcomeUnknown("no reply"))
    assert error.type == ErrorType.START_OUTCOME_UNKNOWN
    assert error.non_retryable
    assert detail(error).type == "OutcomeUnknown"


def test_a_cleanup_error_is_retried_and_logged_without_a_traceback() -> None:
    error = failures.cleanup_error(ApiError(401, retry_after_s=2))
    assert not error.non_retryable
    assert error.next_retry_delay == timedelta(seconds=2)
    assert error.category is ApplicationErrorCategory.BENIGN


def test_a_command_for_another_owner_is_expected() -> None:
    error = failures.not_owner("epoch 1.1 is not owned here")
    assert error.type == ErrorType.NOT_OWNER
    assert error.non_retryable
    assert error.category is ApplicationErrorCategory.BENIGN


def test_seal_keys_that_differ_between_workers_are_not_retryable() -> None:
    """The stream was retried for ever, and the report said only that the time was up."""
    with pytest.raises(ApplicationError) as caught:
        failures.opened(Seal([Seal.new_key()]), Seal([Seal.new_key()]).seal("fake"))
    assert caught.value.type == "SealMismatch"
    assert caught.value.non_retryable
