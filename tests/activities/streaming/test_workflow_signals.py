"""An owner's signals to its workflow, without a server: order, batches, retries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from pydantic import BaseModel
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from activities.streaming import workflow_signals
from activities.streaming.workflow_signals import MAX_SIGNALS, SignalQueue
from avatar_sessions.contract import names
from avatar_sessions.contract.activities import OwnerRecovering, UtteranceLines
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import Pose, UtteranceOutcome
from tests.support.waiting import until


class RecordingWorkflow:
    """Keeps the signals it gets, after raising each of `failures`."""

    def __init__(self) -> None:
        self.received: list[tuple[str, BaseModel]] = []
        self.failures: list[Exception] = []

    async def signal(self, signal: str, message: BaseModel, **_: Any) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.received.append((signal, message))

    @property
    def batches(self) -> list[UtteranceLines]:
        """The batches of reports."""
        return [one for _, one in self.received if isinstance(one, UtteranceLines)]


def queue_to(workflow: RecordingWorkflow) -> SignalQueue:
    return SignalQueue("test", (1, 1), cast("WorkflowHandle[Any, Any]", workflow))


@contextlib.asynccontextmanager
async def running(queue: SignalQueue) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(queue.deliver()), asyncio.create_task(queue.batch_reports())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def report(name: str) -> UtteranceReport:
    return UtteranceReport(id=name, outcome=UtteranceOutcome.COMPLETED)


def recovering(attempt: int) -> OwnerRecovering:
    return OwnerRecovering(epoch=(1, attempt))


def unavailable() -> RPCError:
    return RPCError("away", RPCStatusCode.UNAVAILABLE, b"")


async def test_signals_arrive_in_order_though_the_server_is_away_for_a_while() -> None:
    workflow = RecordingWorkflow()
    workflow.failures = [unavailable(), TimeoutError()]
    queue = queue_to(workflow)
    async with running(queue):
        for attempt in (1, 2, 3):
            queue.send(names.SIGNAL_OWNER_RECOVERING, recovering(attempt))
        await until(lambda: len(workflow.received) == 3)
    assert [one for _, one in workflow.received] == [recovering(n) for n in (1, 2, 3)]


async def test_a_closed_workflow_is_not_retried() -> None:
    workflow = RecordingWorkflow()
    workflow.failures = [RPCError("closed", RPCStatusCode.NOT_FOUND, b"")]
    queue = queue_to(workflow)
    async with running(queue):
        queue.send(names.SIGNAL_OWNER_RECOVERING, recovering(1))
        queue.send(names.SIGNAL_OWNER_RECOVERING, recovering(2))
        await until(lambda: len(workflow.received) == 1)
    assert workflow.received[0][1] == recovering(2)


async def test_the_oldest_signal_is_dropped_when_too_many_wait() -> None:
    workflow = RecordingWorkflow()
    queue = queue_to(workflow)
    for attempt in range(MAX_SIGNALS + 2):
        queue.send(names.SIGNAL_OWNER_RECOVERING, recovering(attempt))
    async with running(queue):
        await queue.flush(5)
    assert len(workflow.received) == MAX_SIGNALS
    assert workflow.received[0][1] == recovering(2)


async def test_reports_go_in_batches_and_a_flush_does_not_wait_for_the_next() -> None:
    """A signal costs four events of history: the first report goes immediately, the following
    ones together after a pause, or when the process stops."""
    workflow = RecordingWorkflow()
    queue = queue_to(workflow)
    async with running(queue):
        queue.send_report(report("u1"))
        await until(lambda: len(workflow.batches) == 1)
        queue.send_report(report("u2"))
        queue.send_report(report("u3"), may_continue=True)
        queue.send_pose(Pose.LISTENING)
        await asyncio.sleep(0.05)
        assert len(workflow.batches) == 1
        await queue.flush(5)
    second = workflow.batches[1]
    assert [one.id for one in second.utterances] == ["u2"]
    assert [one.id for one in second.unfinished] == ["u3"]
    assert second.pose is Pose.LISTENING


async def test_many_reports_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow_signals, "REPORTS_IN_A_SIGNAL", 2)
    workflow = RecordingWorkflow()
    queue = queue_to(workflow)
    for number in range(5):
        queue.send_report(report(f"u{number}"))
    async with running(queue):
        await queue.flush(5)
    assert [len(batch.utterances) for batch in workflow.batches] == [2, 2, 1]


async def test_a_flush_is_bounded() -> None:
    workflow = RecordingWorkflow()
    workflow.failures = [unavailable()] * 100
    queue = queue_to(workflow)
    async with running(queue):
        queue.send(names.SIGNAL_OWNER_RECOVERING, recovering(1))
        async with asyncio.timeout(5):
            await queue.flush(0.1)
    assert workflow.received == []


async def test_a_batch_carries_the_epoch_of_the_adopting_attempt() -> None:
    workflow = RecordingWorkflow()
    queue = queue_to(workflow)
    queue.epoch = (1, 2)
    queue.send_report(report("u1"))
    async with running(queue):
        await queue.flush(5)
    assert workflow.batches[0].epoch == (1, 2)
