"""The janitor's workflow: what it refuses, and what it shows of a round."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from avatar_sessions.contract.janitor import (
    Decision,
    JanitorFinding,
    JanitorRound,
    JanitorTotals,
    RoomFinding,
    SessionFinding,
)
from workflows.janitor import MAX_DETAIL_LINES, details_of, validated

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def finding(**fields: Any) -> JanitorFinding:
    defaults: dict[str, Any] = {
        "namespace": "default",
        "started_at": NOW,
        "ended_at": NOW,
        "dry_run": False,
        "owns_key": False,
        "grace_s": 600,
        "checks_rooms": True,
    }
    return JanitorFinding(**defaults | fields)


def test_a_round_without_input_is_an_ordinary_round() -> None:
    assert validated(({},)) == JanitorRound()


@pytest.mark.parametrize("inputs", [({"dry_rnu": True},), ({"grace_s": 0},), ("round",)])
def test_a_misspelt_round_is_refused_for_good(inputs: tuple[Any, ...]) -> None:
    """A misspelt dry run must not become a real round."""
    with pytest.raises(ApplicationError) as caught:
        validated(inputs)
    assert caught.value.non_retryable
    assert caught.value.type == "InvalidRound"


def test_the_page_shows_totals_problems_and_decisions() -> None:
    shown = details_of(
        finding(
            sessions=[
                SessionFinding(
                    provider_session_id="session-1", decision=Decision.STOPPED, why="terminated"
                )
            ],
            rooms=[
                RoomFinding(
                    room="room-1",
                    workflow_id="w",
                    run_id="r",
                    decision=Decision.RUNNING,
                    why="running",
                )
            ],
            totals=JanitorTotals(
                sessions=3,
                sessions_by_decision={Decision.STOPPED: 1, Decision.STRANGER: 2},
                rooms=1,
                rooms_by_decision={Decision.RUNNING: 1},
            ),
            problems=["LiveKit's rooms could not be listed"],
        )
    )
    assert shown.split("\n\n") == [
        "3 billed LiveAvatar sessions, 1 marked rooms: **1 stopped or deleted**, 0 failed,"
        " 2 strangers left alone",
        "problem: LiveKit's rooms could not be listed",
        "- session `session-1`: **stopped**, terminated",
        "- room `room-1`: **left: workflow is running**, running",
    ]


def test_a_dry_run_says_what_it_would_do() -> None:
    totals = JanitorTotals(sessions=1, sessions_by_decision={Decision.WOULD_STOP: 1})
    shown = details_of(finding(dry_run=True, totals=totals))
    assert "**dry run**: 1 would be stopped or deleted" in shown


def test_the_page_names_the_first_findings_only() -> None:
    sessions = [
        SessionFinding(provider_session_id=f"s{n}", decision=Decision.RUNNING, why="running")
        for n in range(MAX_DETAIL_LINES + 5)
    ]
    shown = details_of(finding(sessions=sessions))
    assert shown.count("- session") == MAX_DETAIL_LINES
