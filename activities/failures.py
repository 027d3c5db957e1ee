"""Foreign errors become application errors here, and nowhere else.

Each carries the contract's ``Failure`` as its detail, so that the workflow, the report and the
Temporal UI tell the same story; none carries a secret.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from pydantic import SecretStr
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from avatar_sessions.contract.activities import ErrorType
from avatar_sessions.contract.messages import Failure
from avatar_sessions.seal import Seal, SealError
from liveavatar_lite import ApiError, ConcurrencyLimit, LiteError, RateLimited

SLOT_RETRY: Final = timedelta(seconds=1.5)
"""Before asking for a concurrency slot again: a stopped session's slot is not free at once."""
RATE_RETRY: Final = timedelta(seconds=1)
"""Before a call that was one too many is made again: LiveAvatar counts windows of a second."""


def failure_of(error: LiteError) -> Failure:
    """The contract's words for an error of the LITE library."""
    return Failure(
        type=type(error).__name__,
        message=str(error),
        http_status=error.status if isinstance(error, ApiError) else None,
        code=error.code if isinstance(error, ApiError) else None,
    )


def to_be_repeated(error: LiteError) -> ApplicationError:
    """For what must happen: repeated whatever was said, and without a traceback in the log."""
    return _error(
        failure_of(error), None, True, named_delay(error), ApplicationErrorCategory.BENIGN
    )


def named_delay(error: LiteError) -> timedelta | None:
    """After which time LiveAvatar said that it may be asked again (``Retry-After``)."""
    told_s = error.retry_after_s if isinstance(error, ApiError) else None
    return timedelta(seconds=told_s) if told_s else None


def turn_delay(error: LiteError) -> timedelta | None:
    """Before asking again where nothing but our turn is missing; None: something else is.

    There is no free session on this plan, or there were too many calls: nothing was done, and
    nothing is billed.
    """
    if isinstance(error, ConcurrencyLimit):
        return named_delay(error) or SLOT_RETRY
    if isinstance(error, RateLimited):
        return named_delay(error) or RATE_RETRY
    return None


def application_error(error: LiteError) -> ApplicationError:
    """What an activity raises for an error of the LITE library: retried if that can help."""
    delay = turn_delay(error)
    retryable = error.retryable or delay is not None
    return _error(failure_of(error), None, retryable, delay or named_delay(error))


def start_outcome_unknown(error: LiteError) -> ApplicationError:
    """``/start`` may have begun billing: never repeated, stopped by id."""
    return _error(failure_of(error), ErrorType.START_OUTCOME_UNKNOWN, False, None)


def not_owner(message: str) -> ApplicationError:
    """The session is not held here, or has no socket now: expected, the workflow finds another."""
    failure = Failure(type=ErrorType.NOT_OWNER, message=message)
    return _error(failure, ErrorType.NOT_OWNER, False, None, ApplicationErrorCategory.BENIGN)


def plain_error(type_: str, message: str, *, retryable: bool = False) -> ApplicationError:
    """An error of our own making."""
    return _error(Failure(type=type_, message=message), type_, retryable, None)


def opened(seal: Seal, sealed: str) -> SecretStr:
    """Open a sealed secret.

    Raises:
        ApplicationError: no key of this worker fits; trying again would not help.
    """
    try:
        return seal.open(sealed)
    except SealError as error:
        raise plain_error("SealMismatch", str(error)) from error


def _error(
    failure: Failure,
    type_: str | None,
    retryable: bool,
    retry_delay: timedelta | None,
    category: ApplicationErrorCategory = ApplicationErrorCategory.UNSPECIFIED,
) -> ApplicationError:
    return ApplicationError(
        failure.message,
        failure.model_dump(mode="json"),
        type=type_ or failure.type,
        non_retryable=not retryable,
        next_retry_delay=retry_delay,
        category=category,
    )
