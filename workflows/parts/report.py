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


def status(life: SessionRecord, ledger: CommandLedger, pose: Pose) -> SessionStatus:
    """Where the session stands."""
    generation = life.current_generation
    return SessionStatus(
        session_key=life.session_key,
        state=life.state,
        end_reason=life.verdict.reason if life.verdict else None,
        failure=life.verdict.failure if life.verdict else None,
        provider_session_id=generation.provider_session_id if generation else None,
        generation=generation.number if generation else 0,
        epoch=life.owner.epoch if life.owner else None,
        requested_at=life.requested_at,
        live_at=life.live_at,
        ends_at=life.ends_at,
        speaking=ledger.speaking.id if ledger.speaking else None,
        pose=pose,
        waiting_commands=len(ledger.waiting) + len(ledger.speech),
        utterances=ledger.totals().count,
        totals=ledger.totals(),
        latest_utterances=list(ledger.latest),
        ignored_messages=ledger.ignored_count,
        waiting_for=None if life.awaited is None else str(life.awaited),
        waiting_since=None if life.awaited is None else life.awaited.since,
        alert=life.alert,
    )


def report(life: SessionRecord, ledger: CommandLedger, provider: Provisioning) -> SessionReport:
    """What happened, and what it cost."""
    info = workflow.info()
    assert life.verdict is not None
    now = workflow.now()
    live_at = life.live_at
    return SessionReport(
        session_key=life.session_key,
        workflow_id=info.workflow_id,
        run_id=info.run_id,
        state=life.state,
        end_reason=life.verdict.reason,
        failure=life.verdict.failure,
        requested_at=life.requested_at,
        live_at=live_at,
        ended_at=now,
        start_ms=None if live_at is None else _ms(live_at - life.requested_at),
        live_ms=0 if live_at is None else _ms(provider.silent_at(now) - live_at),
        generations=provider.generation_reports(),
        utterances=ledger.utterances,
        totals=ledger.totals(),
        takeovers=life.takeovers,
        reconnects=life.reconnects,
        gaps_ms=_ms(life.gaps),
        ignored=ledger.ignored,
        ignored_count=ledger.ignored_count,
        cleanup=provider.cleanup_report(),
    )


def _ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
