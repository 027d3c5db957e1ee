"""Sessions that no workflow will stop: the decision to stop them, without a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.streaming import workflow_gone
from activities.streaming.workflow_gone import (
    AttemptStatus,
    attempt_status,
    stop_if_terminated,
    stop_if_unwanted,
)
from liveavatar_lite import ConnectionFailed, LiveAvatar


@dataclass
class ScriptedServer:
    """Describes a workflow with one answer after the other; the last one stays."""

    answers: list[Any]
    asked: int = 0

    def get_workflow_handle(self, *_: Any, **__: Any) -> Any:
        return self

    async def describe(self, **_: Any) -> Any:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class StoppingLiveAvatar:
    """Keeps which sessions were stopped, after `failures` calls that fail."""

    failures: int = 0
    stopped: list[str] = field(default_factory=list)

    async def stop_session(self, session_id: str) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionFailed("no answer")
        self.stopped.append(session_id)


def workflow(status: WorkflowExecutionStatus, *pending: tuple[str, int]) -> Any:
    """A described workflow with its pending activities."""
    activities = [SimpleNamespace(activity_id=id_, attempt=attempt) for id_, attempt in pending]
    description = SimpleNamespace(pending_activities=activities)
    return SimpleNamespace(status=status, raw_description=description)


RUNNING = WorkflowExecutionStatus.RUNNING
THIS = (ActivityEnvironment.default_info().activity_id, ActivityEnvironment.default_info().attempt)
WANTED = workflow(RUNNING, THIS)
TIMED_OUT = workflow(RUNNING, (THIS[0], THIS[1] + 1))
CLOSED = workflow(WorkflowExecutionStatus.TERMINATED)
AWAY = RPCError("away", RPCStatusCode.UNAVAILABLE, b"")


def environment(*answers: Any) -> tuple[ActivityEnvironment, ScriptedServer]:
    server = ScriptedServer(list(answers))
    return ActivityEnvironment(client=cast(Client, server)), server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this module only: without pauses for all of asyncio, background tasks of other tests that
    share the event loop once spun for ever, and the run never ended."""

    async def sleep(_: float) -> None: ...

    monkeypatch.setattr(workflow_gone, "sleep", sleep)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (WANTED, AttemptStatus.WANTED),
        (TIMED_OUT, AttemptStatus.TIMED_OUT),
        (workflow(RUNNING), AttemptStatus.TIMED_OUT),
        (CLOSED, AttemptStatus.CLOSED),
        (RPCError("closed", RPCStatusCode.NOT_FOUND, b""), AttemptStatus.CLOSED),
        (RPCError("no", RPCStatusCode.PERMISSION_DENIED, b""), AttemptStatus.FORBIDDEN),
        (AWAY, AttemptStatus.UNKNOWN),
        (TimeoutError(), AttemptStatus.UNKNOWN),
    ],
)
async def test_each_answer_has_one_meaning(answer: Any, status: AttemptStatus) -> None:
    environment_, _ = environment(answer)
    assert await environment_.run(attempt_status) is status


@pytest.mark.parametrize(
    ("answer", "stopped"), [(CLOSED, ["p1"]), (TIMED_OUT, []), (WANTED, []), (AWAY, [])]
)
async def test_a_draining_owner_stops_only_what_a_closed_workflow_left(
    answer: Any, stopped: list[str]
) -> None:
    """In doubt the session goes on: the next owner asks again."""
    liveavatar = StoppingLiveAvatar()
    environment_, _ = environment(answer)
    await environment_.run(stop_if_terminated, cast(LiveAvatar, liveavatar), "p1")
    assert liveavatar.stopped == stopped


@pytest.mark.parametrize(
    ("answers", "stopped"),
    [([CLOSED], ["p1"]), ([TIMED_OUT], ["p1"]), ([WANTED], []), ([AWAY, AWAY, CLOSED], ["p1"])],
)
async def test_a_session_that_its_workflow_never_learns_of_is_stopped(
    answers: list[Any], stopped: list[str]
) -> None:
    """The workflow has timed the attempt out and started another session: this one was billed
    until its limit."""
    liveavatar = StoppingLiveAvatar()
    environment_, _ = environment(*answers)
    await environment_.run(stop_if_unwanted, cast(LiveAvatar, liveavatar), "p1")
    assert liveavatar.stopped == stopped


async def test_while_the_server_does_not_answer_it_is_asked_for_long_and_then_left() -> None:
    liveavatar = StoppingLiveAvatar()
    environment_, server = environment(AWAY)
    await environment_.run(stop_if_unwanted, cast(LiveAvatar, liveavatar), "p1")
    assert server.asked == workflow_gone.UNWANTED_TRIES
    assert liveavatar.stopped == []


async def test_a_stop_that_fails_is_repeated() -> None:
    liveavatar = StoppingLiveAvatar(failures=3)
    environment_, _ = environment(CLOSED)
    await environment_.run(stop_if_terminated, cast(LiveAvatar, liveavatar), "p1")
    assert liveavatar.stopped == ["p1"]
