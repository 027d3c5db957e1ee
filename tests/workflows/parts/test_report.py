"""The status of a running session, and the report of one that has ended."""

from __future__ import annotations

from datetime import timedelta

from avatar_sessions.contract.activities import OwnerReady
from avatar_sessions.contract.messages import Clip, Speak
from avatar_sessions.contract.reports import CleanupReport, GenerationReport
from avatar_sessions.contract.states import EndReason, Pose, SessionState
from tests.support.workflow_stub import WorkflowStub
from workflows.parts.ledger import CommandLedger
from workflows.parts.report import (
    generation_reports,
    live_until,
    milliseconds,
    session_report,
    session_status,
)
from workflows.parts.session_state import EndCause, SessionRecord


def ledger() -> CommandLedger:
    return CommandLedger(default_ttl=timedelta(seconds=30))


def ended(stub: WorkflowStub) -> SessionRecord:
    """A session that was live for ten seconds."""
    record = SessionRecord("key", None, requested_at=stub.now)
    record.transition_to(SessionState.MINTING)
    record.active_generation = record.add_generation("session-1")
    record.transition_to(SessionState.STARTING)
    record.transition_to(SessionState.CONNECTING)
    stub.advance(1.5)
    record.transition_to(SessionState.LIVE)
    stub.advance(10)
    record.end(EndCause(EndReason.REQUESTED))
    record.transition_to(SessionState.ENDING)
    record.generations[0].report = GenerationReport(
        number=1, provider_session_id="session-1", stopped_at=stub.now, stop="stopped"
    )
    stub.advance(2)
    record.transition_to(SessionState.ENDED)
    return record


def test_a_status_shows_state_owner_and_queues(stub: WorkflowStub) -> None:
    record, commands = SessionRecord("key", None, requested_at=stub.now), ledger()
    record.transition_to(SessionState.MINTING)
    record.add_generation("session-1")
    record.set_pending_wait("a free session")
    record.owner = OwnerReady(
        queue="avatar-owner:0123456789ab", epoch=(2, 1), provider_session_id="session-1"
    )
    entry = commands.accept(Speak(clip=Clip(file="a.flac")), "u1", stub.now)
    commands.waiting.remove(entry)
    commands.speaking = entry
    commands.accept(Speak(clip=Clip(file="b.flac")), "u2", stub.now)
    status = session_status(record, commands, Pose.LISTENING)
    assert status.state is SessionState.MINTING
    assert (status.provider_session_id, status.generation) == ("session-1", 1)
    assert status.epoch == (2, 1)
    assert (status.speaking, status.waiting_commands) == ("u1", 1)
    assert status.pose is Pose.LISTENING
    assert status.waiting_for == "a free session, since 12:00:00 UTC"
    assert status.waiting_since == stub.now
    assert status.end_reason is None


def test_a_session_that_was_just_requested_has_a_status(stub: WorkflowStub) -> None:
    record = SessionRecord("key", None, requested_at=stub.now)
    status = session_status(record, ledger(), Pose.IDLE)
    assert (status.generation, status.provider_session_id, status.epoch) == (0, None, None)


def test_live_time_ends_when_the_last_generation_was_stopped(stub: WorkflowStub) -> None:
    """Cleaning the room took two more seconds: the session was not live then."""
    report = session_report(ended(stub), ledger(), CleanupReport())
    assert report.start_ms == 1500
    assert report.live_ms == 10_000
    assert report.end_reason is EndReason.REQUESTED
    assert report.workflow_id == "avatar-session:test"


def test_a_session_that_was_never_live_has_no_live_time(stub: WorkflowStub) -> None:
    record = SessionRecord("key", None, requested_at=stub.now)
    record.end(EndCause(EndReason.START_FAILED))
    record.transition_to(SessionState.ENDING)
    record.transition_to(SessionState.FAILED)
    report = session_report(record, ledger(), CleanupReport())
    assert (report.start_ms, report.live_ms) == (None, 0)


def test_live_time_is_never_negative(stub: WorkflowStub) -> None:
    """LiveAvatar's clock was behind the workflow's: the stop seemed to precede the start."""
    record = ended(stub)
    assert record.live_at is not None
    record.generations[0].report = GenerationReport(
        number=1,
        provider_session_id="session-1",
        stopped_at=record.live_at - timedelta(seconds=1),
        stop="stopped",
    )
    assert live_until(record, stub.now) == record.live_at


def test_live_time_goes_on_until_now_without_a_confirmed_stop(stub: WorkflowStub) -> None:
    record = ended(stub)
    record.generations[0].report = None
    assert live_until(record, stub.now) == stub.now


def test_a_generation_without_a_stop_is_reported_too() -> None:
    record = SessionRecord("key", None, requested_at=WorkflowStub().now)
    record.add_generation("session-1")
    (one,) = generation_reports(record)
    assert (one.number, one.provider_session_id, one.billed_s) == (1, "session-1", 0)


def test_milliseconds_are_rounded() -> None:
    assert milliseconds(timedelta(microseconds=1600)) == 2
