"""A speaker's owner is killed or drained during an utterance: the next owner goes on with it."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from avatar_sessions import LiveSpeech, SessionMoved
from avatar_sessions.contract.states import Pose, UtteranceOutcome
from deploy.local.livekit import LiveKitServer
from deploy.local.relay import RelayMode, TcpRelay
from deploy.local.temporal import TemporalServer
from tests.support.platforms.in_process import Platform, new_key, wayne
from tests.support.platforms.worker_process import (
    heard_by_liveavatar_ms,
    worker_process,
)
from tests.support.speech.pcm import speak_live
from workers.wiring import Role


@pytest.mark.timeout(120)
async def test_an_utterance_goes_on_when_its_owner_is_killed(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """kill -9 in mid-utterance: the speaker's suspicion brings the next owner, which goes on."""
    folder = run_folder
    async with worker_process(
        workerless, temporal, livekit, Role.SESSIONS, folder / "live-kill-sessions.log"
    ):
        first_log, second_log = folder / "live-kill-1.log", folder / "live-kill-2.log"
        async with worker_process(workerless, temporal, livekit, Role.STREAMS, first_log) as first:
            session = await workerless.sessions.start(new_key(), wayne(sandbox=False))
            async with (
                session.live() as live,
                worker_process(workerless, temporal, livekit, Role.STREAMS, second_log),
            ):
                saying = asyncio.create_task(speak_live(live, 9))
                await asyncio.sleep(3)
                first.send_signal(signal.SIGKILL)
                await first.wait(30)
                line = await saying
                status = await session.status()
                heard_ms = await heard_by_liveavatar_ms(workerless, session)
                report = await session.end()
    assert (line.outcome, line.heard_ms, line.received_ms) == (
        UtteranceOutcome.COMPLETED,
        9000,
        9000,
    )
    assert status.epoch is not None
    assert tuple(status.epoch) > (1, 1)
    assert report.takeovers == 1
    assert [one.id for one in report.utterances] == [line.id]
    assert 9000 - 100 <= heard_ms <= 9000 + 1000, "at most one chunk is said twice"


@pytest.mark.timeout(120)
async def test_an_utterance_goes_on_without_a_gap_when_its_owner_drains(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """A deploy in mid-utterance: LiveAvatar's buffer covers the time until the next owner."""
    folder = run_folder
    first_log, second_log = folder / "live-drain-1.log", folder / "live-drain-2.log"
    async with (
        worker_process(
            workerless, temporal, livekit, Role.SESSIONS, folder / "live-drain-sessions.log"
        ),
        worker_process(workerless, temporal, livekit, Role.STREAMS, first_log) as first,
    ):
        session = await workerless.sessions.start(new_key(), wayne(sandbox=False))
        async with (
            session.live() as live,
            worker_process(workerless, temporal, livekit, Role.STREAMS, second_log),
        ):
            saying = asyncio.create_task(speak_live(live, 8))
            await asyncio.sleep(3)
            first.send_signal(signal.SIGTERM)
            line = await saying
            heard_ms = await heard_by_liveavatar_ms(workerless, session)
            assert await first.wait(30) == 0
            report = await session.end()
    assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 8000)
    assert heard_ms == pytest.approx(8000, abs=20)
    assert report.takeovers == 1
    assert "Traceback" not in first_log.read_text()


async def moved(live: LiveSpeech) -> None:
    """Wait until live speech has moved to another owner."""
    async for event in live.events():
        if isinstance(event, SessionMoved):
            return


async def test_a_false_suspicion_costs_nothing(platform: Platform) -> None:
    """A client may suspect an owner wrongly; an owner that answers the probe goes on."""
    session = await platform.start()
    async with session.live() as live:
        saying = asyncio.create_task(speak_live(live, 3))
        await asyncio.sleep(1)
        for _ in range(3):
            await session.owner_lost((1, 1))
        line = await saying
    report = await session.end()
    assert (line.outcome, line.heard_ms, line.gaps) == (UtteranceOutcome.COMPLETED, 3000, [])
    assert report.takeovers == 0


@pytest.mark.timeout(120)
async def test_waiting_for_an_owner_costs_little_history(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """The only owner drained. Its queue still answered "not mine" for seconds, and each answer made
    the speaker's request and the workflow's probe repeat immediately: hundreds of events."""
    folder = run_folder
    first_log, second_log = folder / "live-wait-1.log", folder / "live-wait-2.log"
    async with (
        worker_process(
            workerless, temporal, livekit, Role.SESSIONS, folder / "live-wait-sessions.log"
        ),
        worker_process(workerless, temporal, livekit, Role.STREAMS, first_log) as first,
    ):
        session = await workerless.sessions.start(new_key(), wayne(sandbox=False))
        handle = workerless.client.get_workflow_handle(session.workflow_id)
        async with session.live() as live:
            before = len((await handle.fetch_history()).events)
            first.send_signal(signal.SIGTERM)
            await first.wait(30)
            await asyncio.sleep(4)
            waited = len((await handle.fetch_history()).events) - before
            async with worker_process(workerless, temporal, livekit, Role.STREAMS, second_log):
                line = await speak_live(live, 2)
                await session.end()
    assert line.outcome is UtteranceOutcome.COMPLETED
    assert waited <= 120


@pytest.mark.timeout(150)
async def test_a_speaker_leaves_an_owner_that_is_cut_off(
    workerless: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """An owner that Temporal does not reach is replaced, and has no socket any more. Its speakers
    still reached it, and waited until it released the session: for twenty seconds and more."""
    folder = run_folder
    first_log, second_log = folder / "cut-off-1.log", folder / "cut-off-2.log"
    host, _, port = temporal.address.partition(":")
    async with TcpRelay(host, int(port)).listening() as relay:
        beyond = replace(temporal, address=f"127.0.0.1:{relay.port}")
        async with (
            worker_process(
                workerless, temporal, livekit, Role.SESSIONS, folder / "cut-off-sessions.log"
            ),
            worker_process(workerless, beyond, livekit, Role.STREAMS, first_log),
        ):
            session = await workerless.sessions.start(new_key(), wayne(sandbox=False))
            async with session.live() as live:
                relay.set_mode(RelayMode.REFUSE)
                async with worker_process(workerless, temporal, livekit, Role.STREAMS, second_log):
                    saying = asyncio.create_task(speak_live(live, 12))
                    await asyncio.sleep(3)
                    await session.set_pose(Pose.LISTENING)  # finds no owner
                    async with asyncio.timeout(40):
                        await moved(live)
                    assert ": released" not in first_log.read_text()
                    line = await asyncio.wait_for(saying, 40)
                    heard_ms = await heard_by_liveavatar_ms(workerless, session)
                    report = await session.end()
    assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 12_000)
    assert report.takeovers == 1
    assert 12_000 - 100 <= heard_ms <= 12_000 + 1000
