"""What a session tells of itself: its status while it lives, its report when it is over."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from avatar_sessions.contract.messages import SessionReport, SessionStatus
    from avatar_sessions.contract.states import Pose

from workflows.parts.ledger import CommandLedger
from workflows.parts.provisioning import Provisioning
from workflows.parts.record import SessionRecord


def status(record: SessionRecord, ledger: CommandLedger, pose: Pose) -> SessionStatus:
    """Where the session stands."""
    generation = record.current_generation
    return SessionStatus(
        session_key=record.session_key,
        state=record.state,
        end_reason=record.end_cause.reason if record.end_cause else None,
        failure=record.end_cause.failure if record.end_cause else None,
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
        waiting_for=None if record.pending_wait is None else str(record.pending_wait),
        waiting_since=None if record.pending_wait is None else record.pending_wait.since,
        alert=record.alert,
    )


def report(record: SessionRecord, ledger: CommandLedger, provider: Provisioning) -> SessionReport:
    """What happened, and what it cost."""
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
        start_ms=None if live_at is None else _ms(live_at - record.requested_at),
        live_ms=0 if live_at is None else _ms(provider.silent_at(now) - live_at),
        generations=provider.generation_reports(),
        utterances=ledger.utterances,
        totals=ledger.totals(),
        takeovers=record.takeovers,
        reconnects=record.reconnects,
        gaps_ms=_ms(record.gaps),
        ignored=ledger.ignored,
        ignored_count=ledger.ignored_count,
        cleanup=provider.cleanup_report(),
    )


def _ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
