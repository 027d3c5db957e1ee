"""Failing workflow tasks do not interrupt live speech."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from avatar_sessions.contract import names
from avatar_sessions.contract.messages import Interrupt, KeepAlive
from avatar_sessions.contract.states import EndReason, UtteranceOutcome
from tests.support.platforms.in_process import Platform, running_workers
from tests.support.speech.pcm import speak_live
from workers.wiring import Role


@workflow.defn(name=names.WORKFLOW_TYPE, sandboxed=False)
class BrokenRelease:
    """A release of the workflow whose tasks all fail."""

    @workflow.run
    async def run(self, *_: Any) -> None:
        """Fail the workflow task, not the workflow, as an unforeseen bug does."""
        raise RuntimeError("a release that was never tried")


async def failed_tasks(platform: Platform, workflow_id: str) -> int:
    events = (await platform.client.get_workflow_handle(workflow_id).fetch_history()).events
    return sum(one.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED for one in events)


@pytest.mark.timeout(120)
async def test_speech_goes_on_while_the_workflows_tasks_fail(workerless: Platform) -> None:
    """A bad release is rolled out and back: speech goes on without a gap, commands sent meanwhile
    are carried out afterwards, and the session ends normally."""
    async with AsyncExitStack() as streams:
        await streams.enter_async_context(
            running_workers(workerless.client, workerless.settings, Role.STREAMS)
        )
        async with running_workers(workerless.client, workerless.settings, Role.SESSIONS):
            session = await workerless.start(sandbox=False)
            live = await streams.enter_async_context(session.live())
        saying = asyncio.create_task(speak_live(live, 8))
        async with Worker(
            workerless.client,
            task_queue=names.SESSIONS_TASK_QUEUE,
            workflows=[BrokenRelease],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            await session.send(KeepAlive(command_id="asked-meanwhile"))
            async with asyncio.timeout(30):
                while await failed_tasks(workerless, session.workflow_id) == 0:
                    await asyncio.sleep(0.2)
            line = await saying
        async with running_workers(workerless.client, workerless.settings, Role.SESSIONS):
            await session.send(Interrupt())
            report = await session.end(timeout_s=60)
    assert (line.outcome, line.heard_ms, line.gaps) == (UtteranceOutcome.COMPLETED, 8000, [])
    assert report.end_reason is EndReason.REQUESTED
    assert (report.takeovers, len(report.generations)) == (0, 1)
    assert [one.id for one in report.utterances] == [line.id]
