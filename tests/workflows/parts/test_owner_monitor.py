"""When an owner is suspected, unreachable and replaced: the decisions that need no probe."""

from __future__ import annotations

from datetime import timedelta

from avatar_sessions.contract.activities import OwnerReady, SessionStarted
from avatar_sessions.contract.messages import Clip, Speak
from avatar_sessions.contract.states import SessionState
from tests.support.workflow_stub import WorkflowStub
from workflows.parts.ledger import CommandLedger
from workflows.parts.owner_monitor import OwnerMonitor
from workflows.parts.record import Generation, SessionRecord
from workflows.parts.streams import Stream, Streams


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
