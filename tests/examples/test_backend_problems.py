"""What the example backend answers to every error there is."""

from __future__ import annotations

from uuid import uuid4

import pytest

from avatar_sessions import errors
from avatar_sessions.contract.messages import CommandResult, Failure
from avatar_sessions.contract.states import CommandOutcome
from examples import tts
from examples.backend.problems import PROBLEMS, ProblemAnswer, problem_of
from examples.local_tts import ToneTts
from tests.support.platforms.backend_server import backend
from tests.support.platforms.product import Product

INSIDE = "a host and a setting of ours"
FAILURE = Failure(type="Some", message=INSIDE)


def answer_to(error: Exception) -> tuple[int, str]:
    problem = problem_of(error)
    assert INSIDE not in problem.message
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
        (errors.TooManyAwaited(INSIDE), (429, "busy")),
        (errors.SealMismatch(INSIDE), (500, "misconfigured")),
        (errors.LiveSpeechUnreachable("web-1", INSIDE, 30), (503, "unavailable")),
        (errors.TemporalUnreachable(INSIDE, "does not answer"), (503, "unavailable")),
        (errors.WorkersMissing(INSIDE, INSIDE), (503, "unavailable")),
        (errors.AnswerTimedOut("speak", "web-1", 5), (504, "no_answer")),
        (
            errors.CommandExpired(
                CommandResult(command_id="1", kind="interrupt", outcome=CommandOutcome.EXPIRED)
            ),
            (504, "too_late"),
        ),
        (tts.TtsBusy(INSIDE), (503, "voice_busy")),
        (tts.TtsKeyRefused(INSIDE), (500, "misconfigured")),
        (RuntimeError(INSIDE), (500, "internal")),
    ],
)
def test_each_error_has_its_answer_and_keeps_what_is_inside(
    error: Exception, answer: tuple[int, str]
) -> None:
    assert answer_to(error) == answer


def test_no_error_of_the_client_or_of_a_voice_was_forgotten() -> None:
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


def test_who_may_come_again_is_told_when() -> None:
    answers: list[ProblemAnswer] = [one for one in PROBLEMS.values() if one.status in (429, 503)]
    lasting = {"no_credits"}  # waiting does not bring money

    assert {one.error for one in answers if one.retry_after_s is None} == lasting


async def test_a_session_that_cannot_start_is_answered_and_not_explained_to_a_stranger(
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
