"""Maps every error to its HTTP response.

The body is ``{"error": a word for programs, "message": a sentence for people}``. The sentences are
written here: an error's own text may name hosts and settings, and is only logged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from avatar_sessions import errors
from examples.backend.speech import SpeechPoolFull, TooManyTexts
from examples.tts import TtsBusy, TtsError, TtsKeyRefused, TtsRefused, TtsUnavailable

MAX_VALIDATION_PROBLEMS: Final = 3
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProblemAnswer:
    """One error response."""

    status: int
    error: str
    message: str
    retry_after_s: int | None = None

    def response(self) -> JSONResponse:
        """The HTTP response."""
        headers = {"cache-control": "no-store"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        body = {"error": self.error, "message": self.message}
        return JSONResponse(body, status_code=self.status, headers=headers)


_MISCONFIGURED: Final = ProblemAnswer(500, "misconfigured", "The backend is misconfigured.")
_UNAVAILABLE: Final = ProblemAnswer(503, "unavailable", "The avatar cannot be reached now.", 5)

PROBLEMS: Final[Mapping[type[Exception], ProblemAnswer]] = {
    # There is no session, or it has ended.
    errors.SessionNotFound: ProblemAnswer(404, "no_session", "There is no session: start one."),
    errors.SessionOver: ProblemAnswer(410, "session_over", "The session is over."),
    errors.SessionTerminated: ProblemAnswer(
        410, "session_over", "The session was ended by an operator."
    ),
    errors.SessionFailed: ProblemAnswer(502, "session_failed", "The session failed."),
    errors.StartTimedOut: ProblemAnswer(
        504, "start_timed_out", "The avatar did not start in time."
    ),
    errors.ServiceUnreachable: ProblemAnswer(
        502, "liveavatar_unreachable", "LiveAvatar cannot be reached.", 30
    ),
    errors.ConcurrencyLimit: ProblemAnswer(
        503, "all_taken", "All avatars are in use: try again soon.", 30
    ),
    # Not 402: the account is the backend's, not the caller's.
    errors.NoCredits: ProblemAnswer(503, "no_credits", "No avatar is available at present."),
    errors.Unauthorized: _MISCONFIGURED,
    errors.InvalidRequest: _MISCONFIGURED,  # the backend made the request, not the caller
    errors.InvalidArgument: ProblemAnswer(422, "malformed", "The session cannot take this."),
    # The session exists.
    errors.AccessFailed: _UNAVAILABLE,
    errors.CommandRejected: ProblemAnswer(422, "refused", "The session does not accept this."),
    errors.CommandExpired: ProblemAnswer(504, "too_late", "The avatar was not available in time."),
    errors.TooManyAwaited: ProblemAnswer(
        429, "busy", "Too many requests wait for this session.", 2
    ),
    errors.UtteranceOver: ProblemAnswer(409, "interrupted", "The speech was interrupted."),
    TooManyTexts: ProblemAnswer(429, "busy", "Too many texts are waiting to be spoken.", 2),
    SpeechPoolFull: ProblemAnswer(503, "all_taken", "This server has too many sessions.", 10),
    # Live speech.
    errors.LiveSpeechUnavailable: _MISCONFIGURED,
    errors.LiveSpeechUnreachable: _UNAVAILABLE,
    errors.LiveSpeechClosed: _UNAVAILABLE,
    errors.LiveSpeechMisused: _MISCONFIGURED,
    # Temporal and the workers.
    errors.SealKeysUnusable: _MISCONFIGURED,
    errors.SealMismatch: _MISCONFIGURED,
    errors.UnexpectedAnswer: ProblemAnswer(502, "unexpected", "The session answered unexpectedly."),
    errors.TemporalUnreachable: _UNAVAILABLE,
    errors.WorkersMissing: _UNAVAILABLE,
    errors.NoAnswer: ProblemAnswer(
        504, "no_answer", "No answer in time; it may still take effect."
    ),
    # The voice.
    TtsBusy: ProblemAnswer(503, "voice_busy", "The voice is busy: try again soon.", 5),
    TtsUnavailable: ProblemAnswer(502, "voice_unavailable", "The voice cannot be reached."),
    TtsRefused: ProblemAnswer(502, "voice_refused", "The voice cannot speak this text."),
    TtsKeyRefused: _MISCONFIGURED,
}


def problem_of(error: Exception) -> ProblemAnswer:
    """The response for an error: that of its class, or of the nearest base class."""
    for one in type(error).__mro__:
        problem = PROBLEMS.get(one)
        if problem is not None:
            return problem
    return ProblemAnswer(500, "internal", "Something went wrong on our side.")


def answer_errors(app: FastAPI) -> None:
    """Register these responses with an application."""
    for base in (errors.AvatarSessionsError, TtsError, SpeechPoolFull, TooManyTexts):
        app.add_exception_handler(base, _known)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(Exception, _unforeseen)


async def _known(request: Request, error: Exception) -> JSONResponse:
    problem = problem_of(error)
    level = logging.WARNING if problem.status >= 500 else logging.INFO
    log.log(level, "%s %s: %d: %s", request.method, request.url.path, problem.status, error)
    return problem.response()


async def _unforeseen(_: Request, error: Exception) -> JSONResponse:
    return problem_of(error).response()  # uvicorn logs it with its traceback


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [
        f"{'.'.join(str(part) for part in each['loc'][1:])[:100] or 'body'}: {each['msg']}"
        for each in error.errors()[:MAX_VALIDATION_PROBLEMS]  # without the input, which may be long
    ]
    return ProblemAnswer(422, "malformed", "; ".join(problems)).response()


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException | StarletteHTTPException)
    detail = error.detail.rstrip(".")
    response = ProblemAnswer(
        error.status_code, detail.lower().replace(" ", "_"), f"{detail}."
    ).response()
    response.headers.update(error.headers or {})
    return response
