"""Commands and utterances at the owner: what an answer, a refusal and a silence lead to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel
from temporalio.exceptions import ActivityError, TimeoutType

from avatar_sessions.contract.activities import (
    ClipCursor,
    ClipSpoken,
    CommandDelivered,
    ErrorType,
    OwnerReady,
    SessionStarted,
)
from avatar_sessions.contract.messages import Clip, Interrupt, SetPose, Speak
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import CommandOutcome, Pose, SessionState, UtteranceOutcome
from tests.support.activity_errors import cancelled, refused, timed_out
from tests.support.workflow_stub import ScriptedActivities, WorkflowStub
from workflows.parts import owner_commands, owner_monitor
from workflows.parts.audio_streams import Stream, Streams
from workflows.parts.ledger import CommandLedger, LedgerEntry
from workflows.parts.owner_commands import OwnerCommands, resume_point
from workflows.parts.owner_monitor import OwnerMonitor
from workflows.parts.session_state import Generation, SessionRecord

DRY_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
CURSOR = ClipCursor(generation=1, sent_bytes=9600, heard_bytes=4800, dry_at=DRY_AT)
SENT = CommandDelivered(outcome=CommandOutcome.SENT)
NOT_OWNER = refused(ErrorType.NOT_OWNER)
NOT_TAKEN = timed_out(TimeoutType.SCHEDULE_TO_START)
NO_HEARTBEAT = timed_out(TimeoutType.HEARTBEAT, heartbeat=(CURSOR.model_dump(mode="json"),))


class Commanded:
    """A LIVE session with one owner, whose activities are scripted."""

    def __init__(
        self,
        stub: WorkflowStub,
        monkeypatch: pytest.MonkeyPatch,
        *answers: BaseModel | Exception,
        resumes: bool = True,
        speakers: bool = True,
    ) -> None:
        self.activities = ScriptedActivities(*answers)
        monkeypatch.setattr(owner_commands, "execute", self.activities)
        monkeypatch.setattr(owner_monitor, "execute", self.activities)
        self.stub = stub
        self.record = SessionRecord("key", None, requested_at=stub.now, state=SessionState.LIVE)
        self.record.owner = OwnerReady(
            queue="avatar-owner:0123456789ab",
            epoch=(1, 1),
            provider_session_id="session-1",
            speakers=speakers,
        )
        self.record.active_generation = Generation(1, "session-1")
        self.ledger = CommandLedger(default_ttl=timedelta(seconds=30))
        streams = Streams()
        started = SessionStarted(
            provider_session_id="session-1", started_at=stub.now, ws_url="gAAAA-address"
        )
        streams.current = Stream("key", streams.numbers, self.record.active_generation, started)
        self.monitor = OwnerMonitor(self.record, self.ledger, streams)
        self.commands = OwnerCommands(self.record, self.ledger, self.monitor, resumes=resumes)

    def accept(self, command: Speak | Interrupt | SetPose) -> LedgerEntry:
        entry = self.ledger.accept(command, f"c{len(self.ledger.waiting)}", self.stub.now)
        if isinstance(command, Speak):
            self.ledger.waiting.remove(entry)
        return entry

    def clip(self) -> LedgerEntry:
        """An utterance whose turn has come."""
        return self.accept(Speak(clip=Clip(file="hello.flac")))


def outcome_of(entry: LedgerEntry) -> str | None:
    return None if entry.result is None else entry.result.outcome


# ------------------------------------------------------------------------- commands


async def test_a_command_carries_the_owner_s_epoch_and_how_long_it_waited(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, SENT)
    session.clip()
    cut = session.accept(Interrupt())
    stub.advance(1.5)
    assert await session.commands.deliver(cut) is CommandOutcome.SENT
    (sent,) = session.activities.calls
    assert (sent.kind, sent.epoch, sent.up_to_order, sent.delayed_s) == (
        "interrupt",
        (1, 1),
        1,
        1.5,
    )


@pytest.mark.parametrize("silence", [NOT_OWNER, NOT_TAKEN, timed_out(TimeoutType.START_TO_CLOSE)])
async def test_an_unanswered_command_waits_for_the_next_owner(
    silence: ActivityError, stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, silence)
    assert await session.commands.deliver(session.accept(SetPose(pose=Pose.IDLE))) is None
    assert session.record.state is SessionState.RECOVERING


async def test_a_command_that_fails_by_a_bug_is_not_repeated(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, refused("TypeError"))
    outcome = await session.commands.deliver(session.accept(SetPose(pose=Pose.IDLE)))
    assert outcome is CommandOutcome.CANCELLED
    assert session.record.state is SessionState.LIVE


@pytest.mark.parametrize("error", [NOT_TAKEN, NOT_OWNER])
async def test_an_owner_that_does_not_retire_or_hand_over_is_passed_over(
    error: ActivityError, stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, error, error, error)
    await session.commands.retire(timedelta(seconds=9))
    await session.commands.hand_over()
    await session.commands.stop_feeding()
    assert [one.kind for one in session.activities.calls] == ["retire", "hand_over", "stop_feeding"]
    assert session.activities.calls[0].patience_s == 9


# ------------------------------------------------------------------------ idle time


async def test_the_owner_says_since_when_no_speaker_was_active(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = CommandDelivered(outcome=CommandOutcome.SENT, idle_s=12)
    session = Commanded(stub, monkeypatch, answer)
    known = stub.now - timedelta(seconds=60)
    assert await session.commands.query_last_activity(known) == stub.now - timedelta(seconds=12)


async def test_an_owner_without_live_speech_is_not_queried(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, speakers=False)
    assert await session.commands.query_last_activity(stub.now) == stub.now


async def test_an_unanswered_query_makes_the_owner_suspect(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, NOT_TAKEN)
    assert await session.commands.query_last_activity(stub.now) is None
    assert session.monitor.suspected


async def test_a_recovering_session_is_not_queried(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch)
    session.record.transition_to(SessionState.RECOVERING)
    assert await session.commands.query_last_activity(stub.now) is None


# ----------------------------------------------------------------------- utterances


def spoken(outcome: UtteranceOutcome = UtteranceOutcome.COMPLETED) -> UtteranceReport:
    return UtteranceReport(id="c0", outcome=outcome, duration_ms=900, sent_ms=900, heard_ms=900)


async def test_a_spoken_utterance_is_reported_and_shown(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, ClipSpoken(report=spoken()))
    entry = session.clip()
    await session.commands.speak(entry)
    assert outcome_of(entry) == UtteranceOutcome.COMPLETED
    assert "`c0`: **completed**" in stub.details


async def test_an_interrupt_in_band_also_cuts_utterances_accepted_before_it(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at = stub.now + timedelta(seconds=1)
    answer = ClipSpoken(report=spoken(UtteranceOutcome.INTERRUPTED), cut_in_band_at=cut_at)
    session = Commanded(stub, monkeypatch, answer)
    first = session.clip()
    before = session.ledger.accept(Speak(clip=Clip(file="b.flac")), "before", stub.now)
    stub.advance(2)
    after = session.ledger.accept(Speak(clip=Clip(file="c.flac")), "after", stub.now)
    await session.commands.speak(first)
    assert outcome_of(before) == UtteranceOutcome.INTERRUPTED
    assert outcome_of(after) is None


@pytest.mark.parametrize("silence", [NOT_OWNER, NOT_TAKEN])
async def test_an_utterance_that_reached_no_owner_is_first_at_the_next_one(
    silence: ActivityError, stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, silence)
    entry = session.clip()
    await session.commands.speak(entry)
    assert list(session.ledger.speech_queue) == [entry]
    assert session.record.state is SessionState.RECOVERING


async def test_an_utterance_continues_where_a_dead_owner_s_last_heartbeat_was(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, NO_HEARTBEAT, NOT_TAKEN, ClipSpoken(report=spoken()))
    entry = session.clip()
    await session.commands.speak(entry)
    assert list(session.ledger.speech_queue) == [entry]
    assert session.record.state is SessionState.RECOVERING, "the probe got no answer"
    session.ledger.speech_queue.clear()
    await session.commands.speak(entry)
    again = session.activities.calls[-1]
    assert (again.offset_bytes, again.dry_at) == (9600, DRY_AT)


async def test_a_released_utterance_continues_at_the_next_owner(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, ClipSpoken(report=spoken(), left_at=CURSOR))
    entry = session.clip()
    await session.commands.speak(entry)
    assert entry.left_at == CURSOR
    assert list(session.ledger.speech_queue) == [entry]


async def test_an_interrupted_utterance_does_not_continue(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, ClipSpoken(report=spoken(), left_at=CURSOR))
    entry = session.clip()
    session.ledger.interrupted_up_to = entry.sequence
    await session.commands.speak(entry)
    assert outcome_of(entry) == UtteranceOutcome.INTERRUPTED
    assert not session.ledger.speech_queue


async def test_without_resume_an_utterance_is_lost_with_its_owner(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, NO_HEARTBEAT, SENT, resumes=False)
    entry = session.clip()
    await session.commands.speak(entry)
    assert outcome_of(entry) == UtteranceOutcome.LOST
    (report,) = session.ledger.utterances
    assert (report.sent_ms, report.heard_ms) == (200, 100)
    assert report.failure is not None
    assert report.failure.type == "WorkerLost"


async def test_an_utterance_that_fails_otherwise_is_lost(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, refused("TypeError"))
    entry = session.clip()
    await session.commands.speak(entry)
    assert outcome_of(entry) == UtteranceOutcome.LOST


async def test_a_cancelled_utterance_is_left_to_the_session_s_end(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Commanded(stub, monkeypatch, cancelled())
    entry = session.clip()
    with pytest.raises(ActivityError):
        await session.commands.speak(entry)
    assert entry.result is None


# --------------------------------------------------------------------- resume points


def test_a_clip_that_no_owner_began_starts_at_its_beginning() -> None:
    assert resume_point(None, Generation(1, "session-1")) == {}


def test_in_the_same_generation_a_clip_continues_after_what_was_sent() -> None:
    """LiveAvatar plays what it has been sent, also after the owner is lost."""
    point = resume_point(CURSOR, Generation(1, "session-1"))
    assert point == {"offset_bytes": 9600, "dry_at": DRY_AT}


def test_in_another_generation_a_clip_continues_after_what_was_heard() -> None:
    """What the earlier LiveAvatar session had not played is lost with it."""
    assert resume_point(CURSOR, Generation(2, "session-2")) == {"offset_bytes": 4800}
    assert resume_point(CURSOR, None) == {"offset_bytes": 4800}
