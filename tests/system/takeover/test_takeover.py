"""Worker processes are killed or drained: another owner takes their sessions over."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from avatar_sessions import EndReason
from avatar_sessions.contract.states import UtteranceOutcome
from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from tests.support.platforms.in_process import LONG, SHORT, Platform, new_key, wayne
from tests.support.platforms.worker_process import (
    heard_by_liveavatar_ms,
    until_heard,
    until_later_owner,
    worker_process,
)
from workers.wiring import Role


async def test_a_clip_goes_on_where_a_killed_owner_left_it(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """kill -9 in mid-sentence: the next owner speaks the rest."""
    async with worker_process(
        workerless, temporal, livekit, Role.SESSIONS, run_folder / "kill-sessions.log"
    ):
        async with worker_process(
            workerless, temporal, livekit, Role.STREAMS, run_folder / "kill-first.log"
        ) as first:
            session = await workerless.sessions.start(
                new_key(), wayne(sandbox=False, command_ttl_s=60)
            )
            await session.attach()
            speaking = asyncio.create_task(session.speak(LONG))
            await until_heard(workerless, session, 2500)
            first.send_signal(signal.SIGKILL)
            await first.wait(30)
        async with worker_process(
            workerless, temporal, livekit, Role.STREAMS, run_folder / "kill-second.log"
        ):
            line = await speaking
            heard_ms = await heard_by_liveavatar_ms(workerless, session)
            assert (await session.speak(SHORT)).outcome is UtteranceOutcome.COMPLETED
            report = await session.end()
    assert (line.outcome, line.heard_ms, line.sent_ms) == (UtteranceOutcome.COMPLETED, 12000, 12000)
    assert 12000 - 20 <= heard_ms <= 12000 + 1000, "at most one chunk is said twice"
    assert report.end_reason is EndReason.REQUESTED
    assert report.takeovers == 1
    assert len(report.generations) == 1
    assert report.cleanup.provider_stopped


async def test_a_clip_can_be_dropped_with_its_owner(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """`resume="drop"`: the clip is LOST, with what was heard of it; the next command follows."""
    folder = run_folder
    async with worker_process(
        workerless, temporal, livekit, Role.SESSIONS, folder / "drop-sessions.log"
    ):
        async with worker_process(
            workerless, temporal, livekit, Role.STREAMS, folder / "drop-first.log"
        ) as first:
            session = await workerless.sessions.start(
                new_key(), wayne(sandbox=False, command_ttl_s=60, resume="drop")
            )
            await session.attach()
            speaking = asyncio.create_task(session.speak(LONG))
            await until_heard(workerless, session, 2500)
            first.send_signal(signal.SIGKILL)
            await first.wait(30)
        async with worker_process(
            workerless, temporal, livekit, Role.STREAMS, folder / "drop-second.log"
        ):
            line = await speaking
            assert (await session.speak(SHORT)).outcome is UtteranceOutcome.COMPLETED
            report = await session.end()
    assert line.outcome is UtteranceOutcome.LOST
    assert 0 < line.heard_ms <= line.sent_ms < 12000
    assert report.takeovers == 1


async def test_a_drained_owner_leaves_its_clip_to_the_next(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """A deploy during a clip: no sample is lost, and none is spoken twice."""
    folder = run_folder
    async with (
        worker_process(
            workerless, temporal, livekit, Role.SESSIONS, folder / "clip-drain-sessions.log"
        ),
        worker_process(
            workerless, temporal, livekit, Role.STREAMS, folder / "clip-drain-1.log"
        ) as first,
    ):
        session = await workerless.sessions.start(new_key(), wayne(sandbox=False))
        await session.attach()
        async with worker_process(
            workerless, temporal, livekit, Role.STREAMS, folder / "clip-drain-2.log"
        ):
            speaking = asyncio.create_task(session.speak(LONG))
            await asyncio.sleep(3)
            first.send_signal(signal.SIGTERM)
            line = await speaking
            heard_ms = await heard_by_liveavatar_ms(workerless, session)
            assert await first.wait(30) == 0
            report = await session.end()
    assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 12000)
    assert heard_ms == pytest.approx(12000, abs=20)
    assert (report.takeovers, len(report.utterances)) == (1, 1)


async def test_a_drained_owner_hands_its_session_over(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """SIGTERM, as a deploy sends it: another process takes over well before any timeout."""
    async with (
        worker_process(
            workerless, temporal, livekit, Role.SESSIONS, run_folder / "drain-sessions.log"
        ),
        worker_process(
            workerless, temporal, livekit, Role.STREAMS, run_folder / "drain-first.log"
        ) as first,
    ):
        session = await workerless.sessions.start(new_key(), wayne(sandbox=False, command_ttl_s=60))
        await session.attach()
        async with worker_process(
            workerless, temporal, livekit, Role.STREAMS, run_folder / "drain-second.log"
        ):
            first.send_signal(signal.SIGTERM)
            await until_later_owner(session, beyond=(1, 1), within_s=14)
            assert await first.wait(30) == 0
            assert (await session.speak(SHORT)).outcome is UtteranceOutcome.COMPLETED
            report = await session.end()
    assert report.takeovers == 1
    assert len(report.generations) == 1
    assert "Traceback" not in (run_folder / "drain-first.log").read_text()


@pytest.mark.timeout(150)
async def test_a_start_whose_worker_died_is_stopped_and_another_generation_opens(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """The server repeated the start on another worker, LiveAvatar refused it as started already,
    and the report called that "not billed" while the first start's session went on billing."""
    workerless.simulator.faults.slow_start_s = 4.0
    try:
        async with worker_process(
            workerless, temporal, livekit, Role.ALL, run_folder / "start-first.log"
        ) as first:
            session = await workerless.sessions.start(
                new_key(), wayne(sandbox=False, start_timeout_s=120)
            )
            await until_starting(workerless)
            first.send_signal(signal.SIGKILL)
            await first.wait(30)
    finally:
        workerless.simulator.faults.slow_start_s = 0.0
    async with worker_process(
        workerless, temporal, livekit, Role.ALL, run_folder / "start-second.log"
    ):
        await session.attach(timeout_s=100)
        report = await session.end()
    assert report.end_reason is EndReason.REQUESTED
    assert len(report.generations) == 2
    assert [one.stop for one in report.generations] == ["stopped", "stopped"]
    ours = {one.provider_session_id for one in report.generations}
    lines = [one for one in workerless.simulator.ledger().sessions if str(one.session_id) in ours]
    assert all(line.started_at is None or line.ended_at is not None for line in lines)


async def until_starting(platform: Platform) -> None:
    """Wait until LiveAvatar is processing a start."""
    give_up = time.monotonic() + 30
    while all(one.phase != "starting" for one in platform.simulator.sessions.values()):
        assert time.monotonic() < give_up
        await asyncio.sleep(0.05)


async def test_a_draining_owner_stops_the_session_of_a_terminated_workflow(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """Terminated, and the worker stopped before its next heartbeat: the session was left open."""
    log = run_folder / "drain-terminated.log"
    async with worker_process(workerless, temporal, livekit, Role.ALL, log) as only:
        session = await workerless.sessions.start(new_key(), wayne(sandbox=False))
        await session.attach()
        provider_id = (await session.status()).provider_session_id
        await workerless.client.get_workflow_handle(session.workflow_id).terminate("test")
        only.send_signal(signal.SIGTERM)
        assert await only.wait(30) == 0
    lines = workerless.simulator.ledger().sessions
    line = next(one for one in lines if str(one.session_id) == provider_id)
    assert line.ended_at is not None
