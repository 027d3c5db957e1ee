"""What a caller is told when something does not work: every error's HTTP answer, in one place.

The answer is ``{"error": a word for programs, "message": a sentence for people}``. The sentences
are written here: an error's own text may name hosts and settings, and goes to the log.
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
from examples.backend.lines import TooManyLines, TooManySayings
from examples.tts import TtsBusy, TtsError, TtsKeyRefused, TtsRefused, TtsUnavailable

MAX_TOLD_PROBLEMS: Final = 3
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProblemAnswer:
    """One answer."""

    status: int
    error: str
    message: str
    retry_after_s: int | None = None

    def response(self) -> JSONResponse:
        """As it goes to the caller."""
        headers = {"cache-control": "no-store"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        body = {"error": self.error, "message": self.message}
        return JSONResponse(body, status_code=self.status, headers=headers)


_OURS: Final = ProblemAnswer(500, "misconfigured", "Something is set up wrong on our side.")
_AWAY: Final = ProblemAnswer(503, "unavailable", "The avatar cannot be reached at the moment.", 5)

PROBLEMS: Final[Mapping[type[Exception], ProblemAnswer]] = {
    # The session is not there, or not any more.
    errors.SessionNotFound: ProblemAnswer(404, "no_session", "There is no session: start one."),
    errors.SessionOver: ProblemAnswer(410, "session_over", "The session is over."),
    errors.SessionTerminated: ProblemAnswer(
        410, "session_over", "The session was ended by an operator."
    ),
    errors.SessionFailed: ProblemAnswer(502, "session_failed", "The session failed."),
    errors.StartTimedOut: ProblemAnswer(
        504, "start_timed_out", "The avatar did not come up in time."
    ),
    errors.ServiceUnreachable: ProblemAnswer(
        502, "liveavatar_unreachable", "LiveAvatar is not there.", 30
    ),
    errors.ConcurrencyLimit: ProblemAnswer(
        503, "all_taken", "All avatars are taken: try again soon.", 30
    ),
    # Not 402: it is our account, and nothing that the caller could pay.
    errors.NoCredits: ProblemAnswer(503, "no_credits", "No avatar is to be had at present."),
    errors.Unauthorized: _OURS,
    errors.InvalidRequest: _OURS,  # the backend chose what was asked for, and not the caller
    errors.InvalidArgument: ProblemAnswer(422, "malformed", "The session cannot take this."),
    # The session is there.
    errors.AccessFailed: _AWAY,
    errors.CommandRejected: ProblemAnswer(422, "refused", "The session does not take this."),
    errors.CommandExpired: ProblemAnswer(504, "too_late", "The avatar was not there in time."),
    errors.TooManyAwaited: ProblemAnswer(
        429, "busy", "Too much is asked of this session at once.", 2
    ),
    errors.UtteranceOver: ProblemAnswer(409, "interrupted", "It was interrupted."),
    TooManySayings: ProblemAnswer(429, "busy", "The avatar has not said your last words yet.", 2),
    TooManyLines: ProblemAnswer(503, "all_taken", "Too many conversations are going on here.", 10),
    # Live speech.
    errors.LiveSpeechUnavailable: _OURS,
    errors.LiveSpeechUnreachable: _AWAY,
    errors.LiveSpeechClosed: _AWAY,
    errors.LiveSpeechMisused: _OURS,
    # Temporal and the workers.
    errors.SealKeysUnusable: _OURS,
    errors.SealMismatch: _OURS,
    errors.UnexpectedAnswer: ProblemAnswer(
        502, "unexpected", "The session answered something odd."
    ),
    errors.TemporalUnreachable: _AWAY,
    errors.WorkersMissing: _AWAY,
    errors.NoAnswer: ProblemAnswer(504, "no_answer", "No answer in time; it may still happen."),
    # The voice.
    TtsBusy: ProblemAnswer(503, "voice_busy", "The voice is busy: try again soon.", 5),
    TtsUnavailable: ProblemAnswer(502, "voice_unavailable", "The voice cannot be reached."),
    TtsRefused: ProblemAnswer(502, "voice_refused", "The voice cannot say this."),
    TtsKeyRefused: _OURS,
}


def problem_of(error: Exception) -> ProblemAnswer:
    """The answer to an error: that of its class, else of the nearest class above it."""
    for one in type(error).__mro__:
        problem = PROBLEMS.get(one)
        if problem is not None:
            return problem
    return ProblemAnswer(500, "internal", "Something went wrong on our side.")


def answer_errors(app: FastAPI) -> None:
    """Let an application answer with these."""
    for base in (errors.AvatarSessionsError, TtsError, TooManyLines, TooManySayings):
        app.add_exception_handler(base, _told)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(Exception, _unforeseen)


async def _told(request: Request, error: Exception) -> JSONResponse:
    problem = problem_of(error)
    level = logging.WARNING if problem.status >= 500 else logging.INFO
    log.log(level, "%s %s: %d: %s", request.method, request.url.path, problem.status, error)
    return problem.response()


async def _unforeseen(_: Request, error: Exception) -> JSONResponse:
    return problem_of(error).response()  # the server logs it, with its traceback


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = [
        f"{'.'.join(str(part) for part in one['loc'][1:])[:100] or 'body'}: {one['msg']}"
        for one in error.errors()[:MAX_TOLD_PROBLEMS]  # without what was sent: it may be long
    ]
    return ProblemAnswer(422, "malformed", "; ".join(told)).response()


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException | StarletteHTTPException)
    words = error.detail.rstrip(".")
    response = ProblemAnswer(
        error.status_code, words.lower().replace(" ", "_"), f"{words}."
    ).response()
    response.headers.update(error.headers or {})
    return response
