"""How a closed workflow, or a failed update, is translated for the caller."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    TerminatedError,
    TimeoutError,
    TimeoutType,
)

from avatar_sessions.contract.reports import Failure, GenerationReport, SessionReport
from avatar_sessions.contract.states import EndReason, SessionState
from avatar_sessions.outcomes import (
    REFUSALS,
    WORKFLOW_CLOSED,
    failure_in,
    report_of_killed,
    status_of_report,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DESCRIPTION = cast(
    Any,
    SimpleNamespace(
        id="avatar-session:k", run_id="run", start_time=NOW, close_time=NOW + timedelta(minutes=1)
    ),
)


def test_the_failure_in_an_updates_details_is_preferred_to_its_type() -> None:
    details = {"type": "NoCredits", "message": "no credits", "code": 4001, "new_field": 1}

    assert failure_in(ApplicationError("text", details, type="StartFailed")) == Failure(
        type="NoCredits", message="no credits", code=4001
    )
    assert failure_in(ApplicationError("text", type="ServiceUnreachable")) == Failure(
        type="ServiceUnreachable", message="text"
    )


@pytest.mark.parametrize("kind", [*sorted(REFUSALS), WORKFLOW_CLOSED, "TooManyAwaited"])
def test_a_refused_message_is_no_failure_of_the_session(kind: str) -> None:
    assert failure_in(ApplicationError("text", type=kind)) is None
    assert failure_in(CancelledError("text")) is None


@pytest.mark.parametrize(
    ("cause", "failure_type", "text"),
    [
        (TerminatedError("by an operator"), "Terminated", "by an operator"),
        (
            TimeoutError("late", type=TimeoutType.START_TO_CLOSE, last_heartbeat_details=[]),
            "Terminated",
            "timed out",
        ),
        (CancelledError("cancelled"), "Terminated", "cancelled before"),
        (ApplicationError("a bug", type="KeyError"), "KeyError", "a bug"),
    ],
)
def test_a_workflow_without_a_result_gets_a_report_that_confirms_nothing(
    cause: BaseException, failure_type: str, text: str
) -> None:
    report = report_of_killed("k", DESCRIPTION, cause)

    assert report.failure is not None
    assert report.failure.type == failure_type
    assert text in report.failure.message
    assert (report.state, report.end_reason) == (SessionState.FAILED, EndReason.INTERNAL_ERROR)
    assert not report.cleanup.provider_stopped
    assert not report.cleanup.room_clean


def test_the_status_of_an_ended_session_comes_from_its_report() -> None:
    report = SessionReport(
        session_key="k",
        workflow_id="avatar-session:k",
        run_id="run",
        state=SessionState.ENDED,
        end_reason=EndReason.REQUESTED,
        requested_at=NOW,
        ended_at=NOW,
        generations=[
            GenerationReport(number=1, provider_session_id="first"),
            GenerationReport(number=2, provider_session_id="second"),
        ],
    )

    status = status_of_report(report)

    assert (status.state, status.end_reason) == (SessionState.ENDED, EndReason.REQUESTED)
    assert (status.generation, status.provider_session_id) == (2, "second")
