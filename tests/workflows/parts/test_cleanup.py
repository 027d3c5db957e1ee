"""Decisions of a cleanup: what a generation cost, and when the next attempt is made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.exceptions import TimeoutType

from avatar_sessions.contract.activities import StoppedSession
from avatar_sessions.contract.reports import GenerationReport
from tests.support.activity_errors import refused, timed_out
from workflows.parts import options
from workflows.parts.cleanup import generation_report, next_step, next_stretch_at, pause_after
from workflows.parts.session_state import Generation

STARTED = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW = STARTED + timedelta(seconds=30)


def generation(**fields: Any) -> Generation:
    defaults: dict[str, Any] = {
        "number": 2,
        "provider_session_id": "session-2",
        "started_at": STARTED,
        "confirmed_started": True,
    }
    return Generation(**defaults | fields)


def stopped(**fields: Any) -> StoppedSession:
    return StoppedSession(**{"stop": "stopped", "stopped_at": NOW} | fields)


# -------------------------------------------------------------------- what it cost


def test_billing_counts_where_liveavatar_knows_it() -> None:
    report = generation_report(
        generation(),
        stopped(
            ended_at=NOW - timedelta(seconds=2),
            ran_s=27.5,
            provider_end_reason="USER_CLOSED",
            credits_consumed=1.5,
        ),
        NOW,
    )
    assert report == GenerationReport(
        number=2,
        provider_session_id="session-2",
        started_at=STARTED,
        stopped_at=NOW - timedelta(seconds=2),
        billed_s=27.5,
        stop="stopped",
        provider_end_reason="USER_CLOSED",
        credits_consumed=1.5,
    )


def test_without_billing_the_workers_clock_counts() -> None:
    report = generation_report(generation(), stopped(), NOW)
    assert report.billed_s == 30
    assert report.stopped_at == NOW


def test_a_running_time_of_zero_is_not_believed_of_a_session_that_ran() -> None:
    """Sandbox entries have shown a duration of 0 for sessions that were seen live."""
    assert generation_report(generation(), stopped(ran_s=0.0), NOW).billed_s == 30


def test_a_start_that_never_arrived_costs_nothing() -> None:
    lost = generation(confirmed_started=False)
    report = generation_report(lost, stopped(stop="already_gone", ran_s=0.0), NOW)
    assert report.billed_s == 0
    assert report.stop == "already_gone"


def test_a_generation_that_was_only_minted_costs_nothing() -> None:
    minted = generation(started_at=None, confirmed_started=False)
    report = generation_report(minted, stopped(stop="already_gone"), NOW)
    assert report.billed_s == 0
    assert report.started_at is None


def test_an_unconfirmed_stop_is_billed_until_now() -> None:
    report = generation_report(generation(), None, NOW)
    assert report.stop == "unconfirmed"
    assert report.stopped_at is None
    assert report.billed_s == 30


def test_an_end_before_the_start_counts_from_the_start() -> None:
    """LiveAvatar's clock may be behind the workers': no session ends before its start."""
    report = generation_report(generation(), stopped(ended_at=STARTED - timedelta(seconds=1)), NOW)
    assert report.stopped_at == STARTED
    assert report.billed_s == 0


def test_an_end_after_the_stop_was_confirmed_counts_as_the_stop() -> None:
    """LiveAvatar's clock may be ahead: the session was stopped when the stop was confirmed."""
    report = generation_report(generation(), stopped(ended_at=NOW + timedelta(seconds=9)), NOW)
    assert report.stopped_at == NOW


def test_a_second_stop_without_billing_keeps_the_first_report() -> None:
    first = generation_report(generation(), stopped(ran_s=12.0), NOW)
    again = generation(report=first)
    later = NOW + timedelta(seconds=10)
    assert generation_report(again, stopped(stop="already_gone"), later) is first


def test_a_second_stop_with_billing_is_reported_as_stopped() -> None:
    first = generation_report(generation(), stopped(), NOW)
    again = generation(report=first)
    report = generation_report(again, stopped(stop="already_gone", ran_s=29.0), NOW)
    assert report.stop == "stopped"
    assert report.billed_s == 29


# ----------------------------------------------------------------- the next attempt


def test_a_timeout_is_retried_immediately() -> None:
    assert pause_after(timed_out(TimeoutType.SCHEDULE_TO_CLOSE)) == timedelta(0)


def test_a_refusal_that_is_not_retryable_is_final() -> None:
    assert pause_after(refused("Unauthorized")) is None


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (None, timedelta(0)),
        (timedelta(seconds=6), timedelta(seconds=6)),
        (timedelta(hours=2), options.CLEANUP_PAUSE_MAX),
    ],
)
def test_a_requested_pause_is_kept_within_bounds(
    requested: timedelta | None, expected: timedelta
) -> None:
    error = refused("Busy", retryable=True, retry_delay=requested)
    assert pause_after(error) == expected


def test_there_is_no_attempt_after_the_time_to_give_up() -> None:
    give_up_at = NOW + timedelta(seconds=10)
    assert next_stretch_at(NOW, timedelta(seconds=9), give_up_at) == NOW + timedelta(seconds=9)
    assert next_stretch_at(NOW, timedelta(seconds=9.5), give_up_at) is None
    assert next_stretch_at(NOW, None, give_up_at) is None


def test_an_alert_says_what_happens_next() -> None:
    give_up_at = NOW + timedelta(minutes=30)
    pause = timedelta(seconds=6)
    assert next_step(NOW + pause, give_up_at, pause).startswith("next attempt at 12:00:36 UTC")
    assert next_step(NOW, give_up_at, timedelta(0)).startswith("an attempt every few seconds")
    assert "until 12:30:30 UTC" in next_step(NOW, give_up_at, timedelta(0))
    assert next_step(None, give_up_at, pause) == "no further attempt"
    assert next_step(None, give_up_at, None) == "no further attempt: a retry cannot succeed"
