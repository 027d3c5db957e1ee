"""When an owner is suspected, probed, replaced, and when its successor is called again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio.exceptions import ActivityError, TimeoutType

from avatar_sessions.contract.activities import (
    CommandDelivered,
    ErrorType,
    OwnerReady,
    SessionStarted,
)
from avatar_sessions.contract.messages import Clip, Speak
from avatar_sessions.contract.states import CommandOutcome, SessionState
from tests.support.activity_errors import cancelled, refused, timed_out
from tests.support.workflow_stub import ScriptedActivities, WorkflowStub
from workflows.parts import owner_monitor
from workflows.parts.audio_streams import Stream, Streams
from workflows.parts.ledger import CommandLedger
from workflows.parts.owner_monitor import OwnerMonitor
from workflows.parts.session_state import Generation, SessionRecord


class RecordedStream(Stream):
    """A stream that counts how often its owner is replaced."""

    replacements = 0

    def replace(self) -> None:
        self.replacements += 1


def owner(epoch: tuple[int, int] = (1, 1), session: str = "session-1") -> OwnerReady:
    return OwnerReady(queue="avatar-owner:0123456789ab", epoch=epoch, provider_session_id=session)


class Monitored:
    """A LIVE session with one owner."""

    def __init__(self, stub: WorkflowStub) -> None:
        self.record = SessionRecord("key", None, requested_at=stub.now, state=SessionState.LIVE)
        self.record.owner = owner()
        self.ledger = CommandLedger(default_ttl=timedelta(seconds=30))
        self.streams = Streams()
        started = SessionStarted(
            provider_session_id="session-1", started_at=stub.now, ws_url="gAAAA-address"
        )
        self.stream = RecordedStream(
            "key", self.streams.numbers, Generation(1, "session-1"), started
        )
        self.streams.current = self.stream
        self.monitor = OwnerMonitor(self.record, self.ledger, self.streams)


def test_a_suspected_owner_keeps_the_session_live(stub: WorkflowStub) -> None:
    session = Monitored(stub)
    assert not session.monitor.suspected
    session.monitor.suspect()
    assert session.monitor.suspected
    assert session.record.state is SessionState.LIVE


def test_an_unreachable_owner_makes_the_session_recover_and_keeps_its_speech(
    stub: WorkflowStub,
) -> None:
    session = Monitored(stub)
    entry = session.ledger.accept(Speak(clip=Clip(file="a.flac")), "u1", stub.now)
    session.ledger.speech_queue.append(session.ledger.waiting.popleft())
    stub.advance(20)
    session.monitor.mark_unreachable(owner())
    assert session.record.state is SessionState.RECOVERING
    assert entry.expires_at == stub.now + timedelta(seconds=30)


def test_a_replaced_owner_s_silence_does_not_concern_its_successor(stub: WorkflowStub) -> None:
    session = Monitored(stub)
    session.record.owner = owner((2, 1))
    session.monitor.mark_unreachable(owner((1, 1)))
    assert session.record.state is SessionState.LIVE


def test_a_draining_owner_is_replaced_without_a_probe(stub: WorkflowStub) -> None:
    session = Monitored(stub)
    session.monitor.on_drain(owner())
    assert session.record.state is SessionState.RECOVERING
    assert session.stream.replacements == 1


async def test_a_replaced_owner_is_not_probed_but_its_successor_is_called_again(
    stub: WorkflowStub,
) -> None:
    """A process that is stopped (SIGSTOP) was handed the successor's task, and swallowed it."""
    session = Monitored(stub)
    session.monitor.on_drain(owner())
    stub.advance(2.9)
    await session.monitor.probe()
    assert session.stream.replacements == 1
    stub.advance(0.1)
    await session.monitor.probe()
    assert session.stream.replacements == 2
    stub.advance(5.9)
    await session.monitor.probe()
    assert session.stream.replacements == 2, "each successor is given twice the time"
    stub.advance(0.1)
    await session.monitor.probe()
    assert session.stream.replacements == 3


def test_an_owner_of_another_generation_is_not_replaced(stub: WorkflowStub) -> None:
    session = Monitored(stub)
    session.record.owner = owner(session="session-0")
    session.monitor.on_drain(owner(session="session-0"))
    assert session.stream.replacements == 0


# -------------------------------------------------------------------------- probes

ANSWER = CommandDelivered(outcome=CommandOutcome.SENT)
NOT_TAKEN = timed_out(TimeoutType.SCHEDULE_TO_START)
NO_ANSWER = timed_out(TimeoutType.START_TO_CLOSE)


def script(
    monkeypatch: pytest.MonkeyPatch, *answers: CommandDelivered | ActivityError
) -> ScriptedActivities:
    activities = ScriptedActivities(*answers)
    monkeypatch.setattr(owner_monitor, "execute", activities)
    return activities


async def test_an_answer_ends_the_suspicion_and_the_recovery(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Monitored(stub)
    activities = script(monkeypatch, ANSWER)
    session.monitor.suspect()
    session.monitor.mark_unreachable(owner())
    await session.monitor.probe()
    assert not session.monitor.suspected
    assert session.record.state is SessionState.LIVE
    (probe,) = activities.calls
    assert (probe.kind, probe.epoch) == ("keep_alive", (1, 1))


async def test_an_owner_that_has_just_answered_is_not_suspected_again(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a hundred speakers whose network failed would have cost a probe."""
    session = Monitored(stub)
    script(monkeypatch, ANSWER)
    await session.monitor.probe()
    stub.advance(0.9)
    session.monitor.suspect()
    assert not session.monitor.suspected
    stub.advance(0.1)
    session.monitor.suspect()
    assert session.monitor.suspected


@pytest.mark.parametrize(
    ("silence", "successor_due_s"),
    [(NOT_TAKEN, 3), (NO_ANSWER, 1)],
    ids=["the process is gone", "the process is stopped"],
)
async def test_a_silent_owner_is_replaced(
    silence: ActivityError,
    successor_due_s: float,
    stub: WorkflowStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Monitored(stub)
    script(monkeypatch, silence)
    await session.monitor.probe()
    assert session.record.state is SessionState.RECOVERING
    assert session.stream.replacements == 1
    stub.advance(successor_due_s - 0.1)
    await session.monitor.probe()
    assert session.stream.replacements == 1
    stub.advance(0.1)
    await session.monitor.probe()
    assert session.stream.replacements == 2


async def test_an_owner_that_refuses_the_probe_is_alive(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reconnects to LiveAvatar, or has handed the session over: its successor will signal."""
    session = Monitored(stub)
    script(monkeypatch, refused(ErrorType.NOT_OWNER))
    await session.monitor.probe()
    assert session.stream.replacements == 0
    assert session.record.state is SessionState.LIVE


async def test_a_successor_that_came_during_the_probe_stays(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Monitored(stub)

    async def silent(*_args: object, **_kwargs: object) -> CommandDelivered:
        session.record.owner = owner((2, 1))
        raise NOT_TAKEN

    monkeypatch.setattr(owner_monitor, "execute", silent)
    await session.monitor.probe()
    assert session.record.state is SessionState.LIVE
    assert session.stream.replacements == 0


async def test_a_cancelled_probe_decides_nothing(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Monitored(stub)
    script(monkeypatch, cancelled())
    with pytest.raises(ActivityError):
        await session.monitor.probe()
    assert not session.monitor.suspected
    assert session.stream.replacements == 0
