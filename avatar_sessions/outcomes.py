"""Translates a closed workflow, or a failed update, into a session's status, report or failure.

No I/O.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from temporalio.client import WorkflowExecutionDescription
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError, TimeoutError

from avatar_sessions.contract.reports import CleanupReport, Failure, SessionReport, SessionStatus
from avatar_sessions.contract.states import EndReason, SessionState
from avatar_sessions.rpc import parsed

REFUSALS: Final = frozenset({"CommandRejected", "TooManyWaiting", "ValueError", "ValidationError"})
WORKFLOW_CLOSED: Final = "AcceptedUpdateCompletedWorkflow"
"""The server's failure type for an update whose workflow closed before it answered."""
_ABOUT_THE_MESSAGE: Final = REFUSALS | {WORKFLOW_CLOSED, "TooManyAwaited"}
"""Failure types of an update that are about the message, not the session."""


def status_of_report(report: SessionReport) -> SessionStatus:
    """Return the status at the session's end, as the query ``status`` would have."""
    last = report.generations[-1] if report.generations else None
    return SessionStatus(
        session_key=report.session_key,
        state=report.state,
        end_reason=report.end_reason,
        failure=report.failure,
        provider_session_id=None if last is None else last.provider_session_id,
        generation=0 if last is None else last.number,
        requested_at=report.requested_at,
        live_at=report.live_at,
        utterances=report.totals.count,
        ignored_messages=report.ignored_count,
        alert=report.cleanup.alert,
    )


def report_of_killed(
    session_key: str, description: WorkflowExecutionDescription, cause: BaseException
) -> SessionReport:
    """Return a report for a workflow that was terminated, timed out or failed without a result."""
    failure = _failure_of(cause)
    return SessionReport(
        session_key=session_key,
        workflow_id=description.id,
        run_id=description.run_id,
        state=SessionState.FAILED,
        end_reason=EndReason.INTERNAL_ERROR,
        failure=failure,
        requested_at=description.start_time,
        ended_at=description.close_time or datetime.now(UTC),
        cleanup=CleanupReport(
            provider_stopped=False,
            room_clean=False,
            problems=["not known: the workflow left no report; the owner and the janitor clean up"],
        ),
    )


def _failure_of(cause: BaseException) -> Failure:
    if isinstance(cause, TerminatedError):
        return Failure(type="Terminated", message=f"the workflow was terminated: {cause.message}")
    if isinstance(cause, TimeoutError):
        return Failure(type="Terminated", message="the workflow timed out")
    if isinstance(cause, CancelledError):
        return Failure(type="Terminated", message="the workflow was cancelled before it ran")
    if isinstance(cause, ApplicationError):
        return Failure(type=cause.type or "ApplicationError", message=cause.message)
    return Failure(type=type(cause).__name__, message=str(cause))


def failure_in(cause: BaseException) -> Failure | None:
    """Return the failure in an error: from its details, else from its type and message."""
    if not isinstance(cause, ApplicationError):
        return None
    for detail in cause.details:
        if isinstance(detail, dict) and "type" in detail and "message" in detail:
            return parsed(Failure, detail)
    if cause.type is None or cause.type in _ABOUT_THE_MESSAGE:
        return None
    return Failure(type=cause.type, message=cause.message)
