"""The example backend's response to every error."""

from __future__ import annotations

from uuid import uuid4

import pytest

from avatar_sessions import errors
from avatar_sessions.contract.reports import CommandResult, Failure
from avatar_sessions.contract.states import CommandOutcome
from examples import tts
from examples.backend.problems import PROBLEMS, ProblemAnswer, problem_of
from examples.local_tts import ToneTts
from tests.support.platforms.backend_server import backend
from tests.support.platforms.product import Product

INTERNAL = "a host name and a setting"
FAILURE = Failure(type="Some", message=INTERNAL)


def answer_to(error: Exception) -> tuple[int, str]:
    problem = problem_of(error)
    assert INTERNAL not in problem.message
    return problem.status, problem.error


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (errors.SessionNotFound("web-1"), (404, "no_session")),
        (errors.SessionOver("web-1"), (410, "session_over")),
        (errors.NoCredits("web-1", FAILURE), (503, "no_credits")),
        (errors.ConcurrencyLimit("web-1", FAILURE), (503, "all_taken")),
        (errors.AvatarNotAccepted("web-1", FAILURE), (500, "misconfigured")),
        (errors.DurationOverPlan("web-1", FAILURE), (500, "misconfigured")),
        (errors.StartTimedOut("web-1", FAILURE), (504, "start_timed_out")),
        (errors.TooManyAwaited(INTERNAL), (429, "busy")),
        (errors.SealMismatch(INTERNAL), (500, "misconfigured")),
        (errors.LiveSpeechUnreachable("web-1", INTERNAL, 30), (503, "unavailable")),
        (errors.TemporalUnreachable(INTERNAL, "does not answer"), (503, "unavailable")),
        (errors.WorkersMissing(INTERNAL, INTERNAL), (503, "unavailable")),
        (errors.AnswerTimedOut("speak", "web-1", 5), (504, "no_answer")),
        (
            errors.CommandExpired(
                CommandResult(command_id="1", kind="interrupt", outcome=CommandOutcome.EXPIRED)
            ),
            (504, "too_late"),
        ),
        (tts.TtsBusy(INTERNAL), (503, "voice_busy")),
        (tts.TtsKeyRefused(INTERNAL), (500, "misconfigured")),
        (RuntimeError(INTERNAL), (500, "internal")),
    ],
)
def test_each_error_has_its_response_without_internal_details(
    error: Exception, answer: tuple[int, str]
) -> None:
    assert answer_to(error) == answer


def test_every_error_of_client_and_voice_has_a_response() -> None:
    bases = {errors.AvatarSessionsError, tts.TtsError}
    known = [
        one
        for module in (errors, tts)
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, tuple(bases)) and one not in bases
    ]

    assert len(known) > 25
    assert not [
        one.__name__ for one in known if not any(above in PROBLEMS for above in one.__mro__)
    ]


def test_retryable_responses_have_retry_after() -> None:
    answers: list[ProblemAnswer] = [one for one in PROBLEMS.values() if one.status in (429, 503)]
    lasting = {"no_credits"}  # waiting does not help

    assert {one.error for one in answers if one.retry_after_s is None} == lasting


async def test_a_failed_start_is_reported_without_details(
    product: Product,
) -> None:
    unknown = uuid4()
    async with (
        backend(product, ToneTts(), backend_avatar_id=unknown) as running,
        running.caller() as ada,
    ):
        await ada.post("")
        answer = await ada.post("/access")
        status = await ada.http.get("/api/session")

    assert (answer.status_code, answer.json()["error"]) == (500, "misconfigured")
    assert str(unknown) not in answer.text
    assert status.json()["state"] == "FAILED"
