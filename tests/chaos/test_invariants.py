"""Each invariant reports a violation, and reports none where it holds."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from avatar_sessions import Session, SessionReport, UtteranceReport
from avatar_sessions.contract.reports import GenerationReport
from avatar_sessions.contract.states import EndReason, SessionState, UtteranceOutcome
from chaos.environment.environment import Environment
from chaos.invariants import (
    Figures,
    billed_for_nothing,
    completed_means_heard,
    one_owner_speaks,
    one_session_is_billed,
    reports_match_the_bill,
)
from chaos.position_code import PositionCode, analyze_samples
from chaos.run import CodedSpeech, FaultRun, SessionUnderTest
from liveavatar_simulator import SessionLine

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "support-1"


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def line(name: str, start_s: float, end_s: float | None, **more: Any) -> SessionLine:
    return SessionLine.model_validate(
        {
            "session_id": name,
            "avatar_id": "some",
            "is_sandbox": False,
            "minted_at": at(start_s - 0.3),
            "started_at": at(start_s),
            "ended_at": None if end_s is None else at(end_s),
            "end_reason": None if end_s is None else "USER_CLOSED",
            "billed_s": 0,
            "credits_consumed": "0",
            "sockets_open": 0,
            "sockets_total": 1,
            "sockets": [],
            "room": None,
            "room_kind": "none",
            "commands": [],
            "commands_ignored": 0,
            "utterances": [],
            **more,
        }
    )


def report(*billed: tuple[str, float]) -> SessionReport:
    return SessionReport(
        session_key=KEY,
        workflow_id=f"avatar-session:{KEY}",
        run_id="run",
        state=SessionState.ENDED,
        end_reason=EndReason.REQUESTED,
        requested_at=at(0),
        ended_at=at(60),
        generations=[
            GenerationReport(number=number, provider_session_id=name, billed_s=billed_s)
            for number, (name, billed_s) in enumerate(billed, start=1)
        ],
    )


@pytest.fixture
def run() -> FaultRun:
    """A run with one session, without an environment."""
    run = FaultRun(cast(Environment, None), "some", seed=1)
    session = Session(cast(Any, None), None, KEY)
    run.subjects[KEY] = SessionUnderTest(session)
    return run


@pytest.fixture
def figures() -> Figures:
    return Figures(keys_of={"first": KEY, "second": KEY})


def violated(run: FaultRun) -> list[str]:
    return [one.invariant for one in run.problems]


def test_consecutive_generations_are_billed_once(run: FaultRun, figures: Figures) -> None:
    one_session_is_billed(run, [line("first", 0, 10), line("second", 8, 30)], figures)
    assert violated(run) == []


def test_long_double_billing_is_a_violation(run: FaultRun, figures: Figures) -> None:
    one_session_is_billed(run, [line("first", 0, 20), line("second", 10, 30)], figures)
    assert violated(run) == ["one session is billed"]
    assert run.problems[0].session_key == KEY
    assert "10.0 s" in run.problems[0].text


def test_two_keys_may_be_billed_at_the_same_time(run: FaultRun) -> None:
    figures = Figures(keys_of={"first": KEY, "second": "another"})
    one_session_is_billed(run, [line("first", 0, 20), line("second", 0, 20)], figures)
    assert violated(run) == []


@pytest.mark.parametrize(
    ("sockets", "problems"),
    [
        ([], []),
        ([1, 1, 2, 2, 3], []),
        ([1, 2, 1], ["one owner speaks"]),
        ([1, 1, 2, 1, 2, 1], ["one owner speaks"]),
    ],
)
def test_speech_on_an_older_socket_is_a_violation(
    run: FaultRun, figures: Figures, sockets: list[int], problems: list[str]
) -> None:
    commands = [{"type": "agent.speak", "at_ms": 0, "socket": socket} for socket in sockets]
    one_owner_speaks(run, [line("first", 0, 20, commands=commands)], figures)
    assert violated(run) == problems


def test_a_report_that_matches_the_ledger_is_accepted(run: FaultRun) -> None:
    run.subjects[KEY].report = report(("first", 20.6))
    reports_match_the_bill(run, [line("first", 0, 20)])
    assert violated(run) == []


@pytest.mark.parametrize("billed_s", [18.5, 22.0])
def test_a_bill_that_differs_from_the_ledger_is_a_violation(run: FaultRun, billed_s: float) -> None:
    run.subjects[KEY].report = report(("first", billed_s))
    reports_match_the_bill(run, [line("first", 0, 20)])
    assert violated(run) == ["reports match the bill"]


def test_an_unreported_session_is_a_violation(run: FaultRun) -> None:
    run.subjects[KEY].report = report(("first", 20))
    reports_match_the_bill(run, [line("first", 0, 20), line("second", 0, 20)])
    assert violated(run) == ["every session is reported"]


def test_a_session_reported_twice_is_a_violation(run: FaultRun) -> None:
    run.subjects[KEY].report = report(("first", 20), ("first", 20))
    reports_match_the_bill(run, [line("first", 0, 20)])
    assert violated(run) == ["every session is reported"]


def test_only_a_terminated_workflow_may_lack_a_report(run: FaultRun) -> None:
    subject = run.subjects[KEY]
    subject.provider_ids = {"first"}
    subject.must_report = False
    reports_match_the_bill(run, [line("first", 0, 20)])
    assert violated(run) == []
    subject.must_report = True
    reports_match_the_bill(run, [line("first", 0, 20)])
    assert violated(run) == ["every session is reported"]


async def spoken(run: FaultRun, outcome: UtteranceOutcome, *, heard_ms: int) -> CodedSpeech:
    code = PositionCode(first_piece=0, pieces=1000)
    future: asyncio.Future[UtteranceReport] = asyncio.get_running_loop().create_future()
    subject = run.subjects[KEY]
    speech = CodedSpeech(subject.session, code, "live", cast(Any, future))
    speech.report = UtteranceReport(id="u", outcome=outcome)
    speech.played = analyze_samples(code, code.samples()[: 24 * heard_ms])
    subject.speeches.append(speech)
    return speech


async def test_a_completed_utterance_was_heard_in_full(run: FaultRun) -> None:
    await spoken(run, UtteranceOutcome.COMPLETED, heard_ms=1000)
    completed_means_heard(run)
    assert violated(run) == []
    await spoken(run, UtteranceOutcome.COMPLETED, heard_ms=999)
    completed_means_heard(run)
    assert violated(run) == ["completed means heard"]


async def test_an_utterance_that_must_complete_and_is_lost_is_a_violation(run: FaultRun) -> None:
    speech = await spoken(run, UtteranceOutcome.LOST, heard_ms=500)
    completed_means_heard(run)
    assert violated(run) == ["speech goes on"]
    run.problems.clear()
    speech.expected = None
    completed_means_heard(run)
    assert violated(run) == []


def test_seconds_after_the_release_are_billed_for_nothing(run: FaultRun, figures: Figures) -> None:
    run.mark_released(run.subjects[KEY].session, at(15).timestamp())
    assert billed_for_nothing(run, [line("first", 0, 20)], figures) == [pytest.approx(5)]
    assert billed_for_nothing(run, [line("first", 0, 14)], figures) == [0.0]


def test_a_session_that_is_still_needed_is_not_billed_for_nothing(
    run: FaultRun, figures: Figures
) -> None:
    """However long its owner is dead: a user waits for the session."""
    assert billed_for_nothing(run, [line("first", 0, 20)], figures) == [0.0]


def test_a_session_without_a_socket_is_billed_for_nothing(run: FaultRun, figures: Figures) -> None:
    lines = [line("first", 0, 4, sockets_total=0), line("second", 5, 30)]
    assert billed_for_nothing(run, lines, figures) == [pytest.approx(4), 0.0]


def test_an_unknown_session_is_billed_for_nothing(run: FaultRun) -> None:
    lines = [line("another", 0, 7)]
    assert billed_for_nothing(run, lines, Figures()) == [pytest.approx(7)]
