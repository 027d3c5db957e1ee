"""Decisions on generations: when a session ends, when it rotates, and why an end is final."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from temporalio.exceptions import TimeoutType

from avatar_sessions.contract.activities import SessionStarted, StreamEnd, StreamResult
from avatar_sessions.contract.messages import SessionRequest
from avatar_sessions.contract.states import EndReason
from tests.support.activity_errors import refused, timed_out
from workflows.parts import options
from workflows.parts.audio_streams import Stream, StreamNumbers
from workflows.parts.generations import (
    ENDED_ON_PURPOSE,
    MAX_DURATION_REACHED,
    HeldGeneration,
    end_cause_of,
    may_pass,
    rotation_due_at,
    session_ends_at,
    time_for_another,
)
from workflows.parts.session_state import Generation

STARTED = datetime(2026, 1, 1, 12, tzinfo=UTC)
SEALED = "gAAAA-sealed"


def request(**fields: Any) -> SessionRequest:
    return SessionRequest(avatar_id=UUID(int=1), **fields)


def stream(limit_s: float | None = 120) -> Stream:
    started = SessionStarted(
        provider_session_id="session-1", started_at=STARTED, ws_url=SEALED, max_duration_s=limit_s
    )
    return Stream("key", StreamNumbers(), Generation(1, "session-1"), started)


def after(seconds: float) -> datetime:
    return STARTED + timedelta(seconds=seconds)


def ended(reason: str | None = None, **fields: Any) -> StreamResult:
    return StreamResult(end=StreamEnd.PROVIDER_CLOSED, provider_end_reason=reason, **fields)


# -------------------------------------------------------------- the session's own end


@pytest.mark.parametrize(
    ("asked_s", "limit_s", "rotate", "ends_after_s"),
    [
        (60, 120, False, 60),
        (600, 120, False, 120),
        (600, 120, True, 600),
        (600, None, False, 600),
        (None, 120, False, 120),
        (None, None, False, options.DEFAULT_MAX_DURATION.total_seconds()),
    ],
    ids=[
        "the request's limit",
        "LiveAvatar's limit is shorter",
        "a rotating session outlasts LiveAvatar's limit",
        "LiveAvatar names no limit",
        "the request names no limit",
        "no limit is named",
    ],
)
def test_a_session_ends_at_the_limit_that_applies(
    asked_s: float | None, limit_s: float | None, rotate: bool, ends_after_s: float
) -> None:
    asked = request(max_duration_s=asked_s, rotate=rotate)
    assert session_ends_at(asked, stream(limit_s)) == after(ends_after_s)


# ------------------------------------------------------------------------- rotation


def test_the_next_generation_is_opened_ahead_of_liveavatar_s_limit() -> None:
    asked = request(max_duration_s=600, rotate=True)
    assert rotation_due_at(asked, stream(120), after(600)) == after(90)


def test_a_short_generation_rotates_a_third_of_its_limit_ahead() -> None:
    asked = request(max_duration_s=600, rotate=True)
    assert rotation_due_at(asked, stream(60), after(600)) == after(40)


@pytest.mark.parametrize(
    ("rotate", "limit_s", "session_end_s"),
    [(False, 120, 600), (True, None, 600), (True, 120, None), (True, 120, 120)],
    ids=["not asked for", "no limit", "not live yet", "the session ends with it"],
)
def test_the_last_generation_does_not_rotate(
    rotate: bool, limit_s: float | None, session_end_s: float | None
) -> None:
    session_end = None if session_end_s is None else after(session_end_s)
    asked = request(max_duration_s=600, rotate=rotate)
    assert rotation_due_at(asked, stream(limit_s), session_end) is None


def test_no_generation_is_opened_for_the_last_seconds_of_a_session() -> None:
    assert time_for_another(after(600), after(594))
    assert not time_for_another(after(600), after(595))
    assert not time_for_another(None, STARTED)


# ------------------------------------------------------------ why an end is final


def test_a_released_stream_ends_the_session_as_requested() -> None:
    cause = end_cause_of(StreamResult(end=StreamEnd.RELEASED), may_reopen=True, may_rotate=True)
    assert cause is not None
    assert cause.reason is EndReason.REQUESTED


def test_liveavatar_s_limit_ends_the_session_unless_it_rotates() -> None:
    limit = ended(MAX_DURATION_REACHED)
    cause = end_cause_of(limit, may_reopen=True, may_rotate=False)
    assert cause is not None
    assert cause.reason is EndReason.MAX_DURATION
    assert end_cause_of(limit, may_reopen=True, may_rotate=True) is None


@pytest.mark.parametrize("reason", sorted(ENDED_ON_PURPOSE))
def test_an_end_on_purpose_ends_the_session(reason: str) -> None:
    cause = end_cause_of(ended(reason), may_reopen=True, may_rotate=True)
    assert cause is not None
    assert cause.reason is EndReason.PROVIDER_ENDED
    assert cause.failure is not None
    assert reason in cause.failure.message


def test_any_other_end_opens_the_next_generation() -> None:
    assert end_cause_of(ended("ZOMBIE_SESSION_REAP"), may_reopen=True, may_rotate=False) is None
    assert end_cause_of(ended(close_code=1006), may_reopen=True, may_rotate=False) is None


def test_too_many_short_generations_end_the_session() -> None:
    cause = end_cause_of(ended(close_code=1006), may_reopen=False, may_rotate=True)
    assert cause is not None
    assert cause.failure is not None
    assert "closed the WebSocket with code 1006" in cause.failure.message


async def test_a_generation_was_ended_on_purpose_only_by_the_result_of_its_stream() -> None:
    async def result(value: StreamResult | Exception) -> StreamResult:
        if isinstance(value, Exception):
            raise value
        return value

    async def held(value: StreamResult | Exception) -> HeldGeneration:
        task = asyncio.create_task(result(value))
        await asyncio.wait([task])
        return HeldGeneration(stream(), task)

    assert (await held(ended("USER_CLOSED"))).ended_on_purpose
    assert not (await held(ended("ZOMBIE_SESSION_REAP"))).ended_on_purpose
    assert not (await held(RuntimeError("lost"))).ended_on_purpose
    running = HeldGeneration(stream(), asyncio.create_task(result(ended("USER_CLOSED"))))
    assert not running.ended_on_purpose
    await running.task


def test_a_failed_start_is_retried_unless_it_is_refused_for_good() -> None:
    assert may_pass(refused("RateLimited", retryable=True))
    assert may_pass(timed_out(TimeoutType.START_TO_CLOSE))
    assert not may_pass(refused("NoCredits"))
