"""What went wrong between two owners, or two LiveAvatar sessions, and must not again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.client import WorkflowHandle

from avatar_sessions import AvatarSessions, Clip, EndReason
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.seal import Seal
from deploy.local.stack import LiveKitServer, TemporalServer
from liveavatar_lite import SessionEndReason
from liveavatar_simulator import LiveAvatarSimulator
from tests.support.outside import outside, until_status
from tests.support.waiting import until
from tests.system.sessions.conftest import (
    Platform,
    new_key,
    own_namespace,
    running_workers,
    simulator_settings,
    wayne,
)
from tests.system.sessions.test_generations import lab, lines, nothing_left
from tests.system.sessions.test_takeover import alone, wait_for_exit, worker, worker_ready
from workers.settings import WorkerSettings
from workers.wiring import Role
from workflows.parts import options

__all__ = ["alone"]

SHORT, LONG = Clip(file="short.wav"), Clip(file="long.wav")


@contextlib.asynccontextmanager
async def lab_without_workers(
    temporal: TemporalServer,
    livekit: LiveKitServer,
    platform: Platform,
    seal_key: SecretStr,
    **settings: object,
) -> AsyncIterator[Platform]:
    """A LiveAvatar of our own; the test brings its own processes."""
    client = await own_namespace(temporal)
    wanted = simulator_settings(livekit, **{"join_rooms": False, **settings})
    async with LiveAvatarSimulator(wanted) as simulator:
        yield replace(
            platform,
            simulator=simulator,
            client=client,
            settings=platform.settings.model_copy(update={"liveavatar_api_url": simulator.url}),
            sessions=AvatarSessions(client, Seal([seal_key])),
        )


@pytest.mark.timeout(180)
async def test_an_owner_replaced_during_a_rotation_does_not_keep_the_session(
    temporal: TemporalServer,
    livekit: LiveKitServer,
    platform: Platform,
    seal_key: SecretStr,
    run_folder: Path,
) -> None:
    """kill -9 when the next generation stood ready: the old one's new owner had a later epoch than
    the next one's, which was refused as stale. Nobody took commands any more, and after three
    minutes the session was given up."""
    logs = {name: run_folder / f"rotate-{name}.log" for name in ("sessions", "first", "second")}
    async with lab_without_workers(
        temporal, livekit, platform, seal_key, plan_max_duration_s=24
    ) as brief:
        with (
            worker(brief, temporal, livekit, Role.SESSIONS, logs["sessions"]),
            worker(brief, temporal, livekit, Role.STREAMS, logs["first"]) as first,
        ):
            await worker_ready(logs["sessions"])
            wish = wayne(sandbox=False, max_duration_s=600, command_ttl_s=60)
            session = await brief.sessions.start(new_key(), wish)
            await session.attach()
            with worker(brief, temporal, livekit, Role.STREAMS, logs["second"]):
                await worker_ready(logs["second"])
                await until(lambda: age_s(brief) > 10)
                speaking = asyncio.create_task(session.speak(LONG))
                await until(lambda: sum(one.sockets_open for one in lines(brief)) == 2)
                first.send_signal(signal.SIGKILL)
                await asyncio.to_thread(wait_for_exit, first)
                line = await asyncio.wait_for(speaking, 60)
                again = await asyncio.wait_for(session.speak(SHORT), 40)
                report = await session.end()
    assert line.outcome is again.outcome is UtteranceOutcome.COMPLETED
    assert len(report.generations) == 2, "another rotation would have helped it out"
    nothing_left(brief, report)


def age_s(platform: Platform) -> float:
    """For how long the last LiveAvatar session runs."""
    return lines(platform)[-1].billed_s


@pytest.mark.timeout(120)
async def test_a_session_lost_before_it_was_live_is_followed_by_another(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    """LiveAvatar ended it while its socket was connecting: the next one's owner was refused, for
    the session was still called STARTING, and billed until the start timeout."""
    async with lab(temporal, livekit, platform, seal_key) as fragile:
        fragile.simulator.faults.never_connected = 1
        session = await fragile.start(sandbox=False)
        await until(lambda: any(one.sockets_open for one in lines(fragile)))
        name = str(lines(fragile)[0].session_id)
        await fragile.simulator.end_session(name, SessionEndReason.SERVER_ERROR)
        await session.attach(timeout_s=30)
        report = await session.end()
        assert len(report.generations) == 2
        nothing_left(fragile, report)


@pytest.mark.timeout(120)
async def test_a_session_whose_limit_comes_before_it_is_live_is_not_rotated(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    """Its socket did not become connected for eight seconds, the limit was twelve: the next
    generation was told to take over from an owner that did not exist (`internal_error`)."""
    async with lab(temporal, livekit, platform, seal_key, plan_max_duration_s=12) as brief:
        brief.simulator.faults.never_connected = 1
        session = await brief.start(sandbox=False, max_duration_s=600)
        await session.attach(timeout_s=50)
        report = await session.end()
        assert report.end_reason is EndReason.REQUESTED
        assert brief.simulator.ledger().peak_open == 1
        nothing_left(brief, report)


@pytest.mark.timeout(120)
async def test_a_session_that_somebody_stopped_during_a_rotation_stays_stopped(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    """An operator stopped it at LiveAvatar when the next one had just been started: ours went on,
    there."""
    async with lab(temporal, livekit, platform, seal_key, plan_max_duration_s=24) as brief:
        session = await brief.start(sandbox=False, max_duration_s=600)
        await session.attach()
        first = str(lines(brief)[0].session_id)
        await until(lambda: age_s(brief) > 10)
        speaking = asyncio.create_task(session.speak(LONG))  # keeps the old one until its limit
        await until(lambda: sum(one.sockets_open for one in lines(brief)) == 2)
        await brief.simulator.end_session(first, SessionEndReason.USER_CLOSED)
        report = await session.report(timeout_s=30)
        await speaking
        assert report.end_reason is EndReason.PROVIDER_ENDED
        nothing_left(brief, report)


@pytest.mark.timeout(120)
async def test_an_end_does_not_wait_for_an_owner_that_is_dead(
    alone: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """Two cancels in one step are one: the end waited ten seconds more for the dead owner's
    stream, which it had meant to cancel after five."""
    sessions_log, streams_log = run_folder / "dead-sessions.log", run_folder / "dead-streams.log"
    with worker(alone, temporal, livekit, Role.SESSIONS, sessions_log):
        with worker(alone, temporal, livekit, Role.STREAMS, streams_log) as owner:
            await worker_ready(sessions_log)
            session = await alone.sessions.start(new_key(), wayne(sandbox=False))
            await session.attach()
            owner.send_signal(signal.SIGKILL)
            await asyncio.to_thread(wait_for_exit, owner)
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
    """Its owner came back between two looks, the second of which was after the last moment: the
    session was ended although it was live."""
    monkeypatch.setattr(options, "RECOVERY_PATIENCE", timedelta(seconds=4.8))
    async with lab(temporal, livekit, platform, seal_key) as fragile:
        session = await fragile.start(sandbox=False)
        await session.attach()
        fragile.simulator.faults.never_connected = 1  # the next socket: known after 5 s
        fragile.simulator.sessions[str(lines(fragile)[0].session_id)].drop_socket()
        await until_status(session, lambda status: status.state == "RECOVERING")
        await until_status(session, lambda status: status.state != "RECOVERING")
        assert (await session.speak(SHORT)).outcome is UtteranceOutcome.COMPLETED
        report = await session.end()
    assert report.end_reason is EndReason.REQUESTED


@pytest.mark.timeout(120)
async def test_a_cleanup_whose_workers_were_away_for_longer_than_its_patience_ends(
    temporal: TemporalServer,
    livekit: LiveKitServer,
    worker_settings: WorkerSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LiveAvatar had asked for a pause, and meanwhile all workers were gone until the half hour
    was over: the next try was given less than no time, which the server refuses, for ever."""
    monkeypatch.setattr(options, "CLEANUP_QUIET", timedelta(seconds=1))
    monkeypatch.setattr(options, "CLEANUP_PATIENCE", timedelta(seconds=12))
    async with outside(temporal, livekit, worker_settings, workers=False) as world:
        async with running_workers(world.client, world.settings):
            session = await world.begin()
            await session.attach()
            world.faults.retry_after_s = 5
            world.faults.rate_limited_stops = 1000
            ending = asyncio.create_task(session.end())
            alert = await until_status(session, lambda status: status.alert)
            assert alert.alert == "provider_not_stopped"
        await asyncio.sleep(13)
        world.faults.rate_limited_stops = 0
        async with running_workers(world.client, world.settings):
            report = await asyncio.wait_for(ending, 40)
    assert report.cleanup.provider_stopped


@pytest.mark.timeout(120)
async def test_a_cancel_that_meets_a_question_to_the_owner_is_cleaned_up_after(
    alone: Platform, temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> None:
    """Before it calls a session idle, the workflow asks the owner. A cancel in that moment failed
    the question and, with it, the workflow: without its cleanup, and without a report."""
    sessions_log, streams_log = run_folder / "idle-sessions.log", run_folder / "idle-streams.log"
    with (
        worker(alone, temporal, livekit, Role.SESSIONS, sessions_log),
        worker(alone, temporal, livekit, Role.STREAMS, streams_log) as owner,
    ):
        await worker_ready(sessions_log)
        session = await alone.sessions.start(new_key(), wayne(sandbox=False, idle_timeout_s=3))
        await session.attach()
        owner.send_signal(signal.SIGSTOP)  # the question takes as long as it may
        handle = alone.client.get_workflow_handle(session.workflow_id)
        async with asyncio.timeout(20):
            while "deliver_command" not in await pending_activities(handle):
                await asyncio.sleep(0.01)
        await handle.cancel()
        report = await session.report()
    assert report.end_reason is EndReason.CANCELLED
    assert report.cleanup.provider_stopped


async def pending_activities(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """What the workflow waits for, by name."""
    described = await handle.describe()
    return [one.activity_type.name for one in described.raw_description.pending_activities]
