"""What an owned session reports to its workflow, without a server."""

from __future__ import annotations

from typing import Any, cast

import pytest
from pydantic import BaseModel
from temporalio.client import WorkflowHandle

from activities.streaming.supervisor import SpeakerGrants, StreamSupervisor
from activities.streaming.workflow_signals import SignalQueue
from avatar_sessions.contract import names
from avatar_sessions.contract.activities import OwnerReady, OwnerRecovering, StreamAudio
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.seal import Seal
from liveavatar_lite import ConnectionFailed, LiveAvatar
from owner.ingress.tickets import Tickets

INGRESS_URL = "ws://127.0.0.1:9/live"


class RecordingQueue(SignalQueue):
    """Keeps signals and reports instead of sending them."""

    def __init__(self) -> None:
        super().__init__("test", (1, 1), cast("WorkflowHandle[Any, Any]", None))
        self.sent: list[tuple[str, BaseModel]] = []
        self.reports: list[UtteranceReport] = []

    def send(self, signal: str, message: BaseModel) -> None:
        self.sent.append((signal, message))

    def send_report(self, report: UtteranceReport, *, may_continue: bool = False) -> None:
        self.reports.append(report)


class ScriptedLiveAvatar:
    """Answers `get_session` with one entry, or fails."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def get_session(self, _: str) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def supervisor_of(
    queue: RecordingQueue,
    *,
    seal: Seal | None = None,
    seal_texts: bool = False,
    ingress_url: str | None = INGRESS_URL,
    answer: Any = None,
) -> StreamSupervisor:
    seal = seal or Seal([Seal.new_key()])
    tickets = Tickets(60.0)
    return StreamSupervisor(
        StreamAudio(
            session_key="test",
            provider_session_id="p1",
            generation=0,
            stream=1,
            ws_url=seal.seal("ws://127.0.0.1:9"),
        ),
        queue="avatar-owner:000000000000",
        signals=queue,
        grants=SpeakerGrants(tickets, seal, lambda: ingress_url),
        liveavatar=cast(LiveAvatar, ScriptedLiveAvatar(answer)),
        text_seal=seal if seal_texts else None,
    )


def test_a_ready_session_grants_its_speaker_a_ticket_of_its_epoch() -> None:
    queue, seal = RecordingQueue(), Seal([Seal.new_key()])
    supervisor = supervisor_of(queue, seal=seal)
    queue.epoch = (1, 2)  # adopted by a later attempt
    supervisor.on_ready(250)
    ((signal, ready),) = queue.sent
    assert signal == names.SIGNAL_OWNER_READY
    assert isinstance(ready, OwnerReady)
    assert (ready.epoch, ready.gap_ms, ready.provider_session_id) == ((1, 2), 250, "p1")
    assert ready.speakers
    assert ready.speaker is not None
    assert ready.speaker.ingress_url == INGRESS_URL
    assert seal.open(ready.speaker.ticket).get_secret_value() not in ready.model_dump_json()


def test_a_process_without_an_ingress_grants_nothing() -> None:
    queue = RecordingQueue()
    supervisor_of(queue, ingress_url=None).on_ready(0)
    ready = queue.sent[0][1]
    assert isinstance(ready, OwnerReady)
    assert not ready.speakers
    assert ready.speaker is None


def test_a_drain_and_a_lost_socket_are_different_signals() -> None:
    queue = RecordingQueue()
    supervisor = supervisor_of(queue)
    supervisor.on_disconnected()
    supervisor.on_drain()
    assert [message for _, message in queue.sent] == [
        OwnerRecovering(epoch=(1, 1)),
        OwnerRecovering(epoch=(1, 1), leaving=True),
    ]


@pytest.mark.parametrize("seal_texts", [False, True])
def test_words_reach_the_history_as_configured(seal_texts: bool) -> None:
    queue, seal = RecordingQueue(), Seal([Seal.new_key()])
    supervisor = supervisor_of(queue, seal=seal, seal_texts=seal_texts)
    report = UtteranceReport(id="u1", outcome=UtteranceOutcome.COMPLETED, text="good morning")
    supervisor.on_report(report, may_continue=False)
    (sent,) = queue.reports
    if not seal_texts:
        assert sent == report
        return
    assert sent.text is None
    assert sent.sealed_text is not None
    assert seal.open(sent.sealed_text).get_secret_value() == "good morning"


async def test_an_unknown_session_has_ended_and_an_unreachable_api_says_nothing() -> None:
    """LiveAvatar forgets old sessions; an error of its API says nothing about this one."""
    gone = await supervisor_of(RecordingQueue(), answer=None).provider_end()
    assert gone is not None
    assert gone.reason is None
    failed = ConnectionFailed("no answer")
    assert await supervisor_of(RecordingQueue(), answer=failed).provider_end() is None
