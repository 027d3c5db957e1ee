"""The session's status while it runs, and its report when it has ended."""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from avatar_sessions.contract.reports import (
        CleanupReport,
        GenerationReport,
        SessionReport,
        SessionStatus,
    )
    from avatar_sessions.contract.states import Pose

from workflows.parts.ledger import CommandLedger
from workflows.parts.session_state import SessionRecord


def session_status(record: SessionRecord, ledger: CommandLedger, pose: Pose) -> SessionStatus:
    """The answer to the status query."""
    generation, wait, end_cause = record.current_generation, record.pending_wait, record.end_cause
    return SessionStatus(
        session_key=record.session_key,
        state=record.state,
        end_reason=end_cause.reason if end_cause else None,
        failure=end_cause.failure if end_cause else None,
        provider_session_id=generation.provider_session_id if generation else None,
        generation=generation.number if generation else 0,
        epoch=record.owner.epoch if record.owner else None,
        requested_at=record.requested_at,
        live_at=record.live_at,
        ends_at=record.ends_at,
        speaking=ledger.speaking.id if ledger.speaking else None,
        pose=pose,
        waiting_commands=len(ledger.waiting) + len(ledger.speech_queue),
        utterances=ledger.totals().count,
        totals=ledger.totals(),
        latest_utterances=list(ledger.latest),
        ignored_messages=ledger.ignored_count,
        waiting_for=None if wait is None else str(wait),
        waiting_since=None if wait is None else wait.since,
        alert=record.alert,
    )


def session_report(
    record: SessionRecord, ledger: CommandLedger, cleanup: CleanupReport
) -> SessionReport:
    """The workflow's result: what happened, and what it cost."""
    info = workflow.info()
    assert record.end_cause is not None
    now = workflow.now()
    live_at = record.live_at
    return SessionReport(
        session_key=record.session_key,
        workflow_id=info.workflow_id,
        run_id=info.run_id,
        state=record.state,
        end_reason=record.end_cause.reason,
        failure=record.end_cause.failure,
        requested_at=record.requested_at,
        live_at=live_at,
        ended_at=now,
        start_ms=None if live_at is None else milliseconds(live_at - record.requested_at),
        live_ms=0 if live_at is None else milliseconds(live_until(record, now) - live_at),
        generations=generation_reports(record),
        utterances=ledger.utterances,
        totals=ledger.totals(),
        takeovers=record.takeovers,
        reconnects=record.reconnects,
        gaps_ms=milliseconds(record.gaps),
        ignored=ledger.ignored,
        ignored_count=ledger.ignored_count,
        cleanup=cleanup,
    )


def live_until(record: SessionRecord, now: datetime) -> datetime:
    """When the last generation was stopped; ``now`` if no stop is confirmed."""
    reports = [one.report for one in record.generations if one.report is not None]
    stopped = [one.stopped_at for one in reports if one.stopped_at is not None]
    until = max(stopped, default=now)
    # LiveAvatar's clock may be behind the workflow's.
    return max(until, record.live_at) if record.live_at else until


def generation_reports(record: SessionRecord) -> list[GenerationReport]:
    """One report for each generation, including those whose billing never began."""
    return [
        one.report
        or GenerationReport(number=one.number, provider_session_id=one.provider_session_id)
        for one in record.generations
    ]


def milliseconds(span: timedelta) -> int:
    """A time span in whole milliseconds."""
    return round(span.total_seconds() * 1000)
