"""Translates foreign errors into Temporal application errors; nothing else does.

Each application error carries the contract's ``Failure`` as its detail, so the workflow, the report
and the Temporal UI show the same text. No text holds a secret.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from pydantic import SecretStr
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from avatar_sessions.contract.activities import ErrorType
from avatar_sessions.contract.reports import Failure
from avatar_sessions.seal import Seal, SealError
from liveavatar_lite import ApiError, ConcurrencyLimit, LiteError, RateLimited

CONCURRENCY_RETRY: Final = timedelta(seconds=1.5)
"""Pause before asking for a concurrency slot again: LiveAvatar frees the slot of a stopped session
with a delay."""
RATE_RETRY: Final = timedelta(seconds=1)
"""Pause after a call over the rate limit: LiveAvatar counts calls in windows of one second."""


def failure_of(error: LiteError) -> Failure:
    """The contract's ``Failure`` for an error of the LITE library."""
    return Failure(
        type=type(error).__name__,
        message=str(error),
        http_status=error.status if isinstance(error, ApiError) else None,
        code=error.code if isinstance(error, ApiError) else None,
    )


def cleanup_error(error: LiteError) -> ApplicationError:
    """A retryable error, logged without a traceback, for cleanup that must eventually succeed."""
    return _error(
        failure_of(error), None, True, retry_after(error), ApplicationErrorCategory.BENIGN
    )


def retry_after(error: LiteError) -> timedelta | None:
    """The delay that LiveAvatar asked for (``Retry-After``); None where it named none."""
    delay_s = error.retry_after_s if isinstance(error, ApiError) else None
    return timedelta(seconds=delay_s) if delay_s else None


def limit_delay(error: LiteError) -> timedelta | None:
    """Pause before the next call at a LiveAvatar limit (403 code 4003, 429); None: no limit.

    The plan's concurrency limit is reached, or there were too many calls: LiveAvatar did nothing
    and bills nothing, so the call may be repeated.
    """
    if isinstance(error, ConcurrencyLimit):
        return retry_after(error) or CONCURRENCY_RETRY
    if isinstance(error, RateLimited):
        return retry_after(error) or RATE_RETRY
    return None


def application_error(error: LiteError) -> ApplicationError:
    """The application error for an error of the LITE library: retryable if a retry can help."""
    delay = limit_delay(error)
    retryable = error.retryable or delay is not None
    return _error(failure_of(error), None, retryable, delay or retry_after(error))


def start_outcome_unknown(error: LiteError) -> ApplicationError:
    """``/start`` may have begun billing: not retryable; the workflow stops the session by id."""
    return _error(failure_of(error), ErrorType.START_OUTCOME_UNKNOWN, False, None)


def not_owner(message: str) -> ApplicationError:
    """This process does not own the session, or has no socket now.

    Expected during a takeover: the workflow repeats the command at the present owner.
    """
    failure = Failure(type=ErrorType.NOT_OWNER, message=message)
    return _error(failure, ErrorType.NOT_OWNER, False, None, ApplicationErrorCategory.BENIGN)


def plain_error(type_: str, message: str, *, retryable: bool = False) -> ApplicationError:
    """An application error that translates no foreign error."""
    return _error(Failure(type=type_, message=message), type_, retryable, None)


def opened(seal: Seal, sealed: str) -> SecretStr:
    """Open a sealed secret.

    Raises:
        ApplicationError: none of this worker's keys fits; a retry would not help.
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
