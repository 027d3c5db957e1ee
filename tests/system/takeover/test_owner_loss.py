"""The workflow ends, recovers or cancels a session whose owner does not answer."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.client import WorkflowHandle

from avatar_sessions import EndReason
from avatar_sessions.contract.states import UtteranceOutcome
from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from tests.support.platforms.generations import ledger_lines, own_platform
from tests.support.platforms.in_process import SHORT, Platform, new_key, wayne
from tests.support.platforms.relayed import until_status
from tests.support.platforms.worker_process import worker_process
from workers.wiring import Role
from workflows.parts import options


@pytest.mark.timeout(120)
async def test_an_end_does_not_wait_for_an_owner_that_is_dead(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """Two cancels in one step count as one: the end waited ten seconds more for the dead owner's
    stream, which it should have cancelled after five."""
    sessions_log, streams_log = run_folder / "dead-sessions.log", run_folder / "dead-streams.log"
    async with worker_process(workerless, temporal, livekit, Role.SESSIONS, sessions_log):
        async with worker_process(
            workerless, temporal, livekit, Role.STREAMS, streams_log
        ) as owner:
            session = await workerless.sessions.start(new_key(), wayne(sandbox=False))
            await session.attach()
            owner.send_signal(signal.SIGKILL)
            await owner.wait(30)
        began_s = time.monotonic()
        report = await session.end()
        took_s = time.monotonic() - began_s
    assert report.cleanup.provider_stopped
    # Two seconds until the owner's silence is an answer, and the patience with its stream.
    assert took_s < 2 + options.RELEASE_TIMEOUT.total_seconds() + 5


@pytest.mark.timeout(120)
async def test_a_session_that_recovered_late_is_not_given_up(
    temporal: TemporalServer,
    livekit: LiveKitServer,
    platform: Platform,
    seal_key: SecretStr,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its owner came back between two checks, the second of which was after the deadline: the
    session was ended although it was live."""
    monkeypatch.setattr(options, "RECOVERY_TIMEOUT", timedelta(seconds=4.8))
    async with own_platform(temporal, livekit, platform, seal_key) as fragile:
        session = await fragile.start(sandbox=False)
        await session.attach()
        fragile.simulator.faults.never_connected = 1  # the next socket: known after 5 s
        fragile.simulator.sessions[str(ledger_lines(fragile)[0].session_id)].drop_socket()
        await until_status(session, lambda status: status.state == "RECOVERING")
        await until_status(session, lambda status: status.state != "RECOVERING")
        assert (await session.speak(SHORT)).outcome is UtteranceOutcome.COMPLETED
        report = await session.end()
    assert report.end_reason is EndReason.REQUESTED


@pytest.mark.timeout(120)
async def test_a_cancel_during_the_idle_query_still_cleans_up(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """Before a session counts as idle, the workflow queries the owner. A cancel during that query
    failed the query and the workflow: without cleanup, and without a report."""
    sessions_log, streams_log = run_folder / "idle-sessions.log", run_folder / "idle-streams.log"
    async with (
        worker_process(workerless, temporal, livekit, Role.SESSIONS, sessions_log),
        worker_process(workerless, temporal, livekit, Role.STREAMS, streams_log) as owner,
    ):
        session = await workerless.sessions.start(new_key(), wayne(sandbox=False, idle_timeout_s=3))
        await session.attach()
        owner.send_signal(signal.SIGSTOP)  # the question takes as long as it may
        handle = workerless.client.get_workflow_handle(session.workflow_id)
        async with asyncio.timeout(20):
            while "deliver_command" not in await pending_activities(handle):
                await asyncio.sleep(0.01)
        await handle.cancel()
        report = await session.report()
    assert report.end_reason is EndReason.CANCELLED
    assert report.cleanup.provider_stopped


async def pending_activities(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """The names of the activities that are under way."""
    described = await handle.describe()
    return [one.activity_type.name for one in described.raw_description.pending_activities]
