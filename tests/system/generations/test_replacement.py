"""A LiveAvatar session or its owner is lost: another generation replaces it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from pydantic import SecretStr

from avatar_sessions import EndReason, Session
from avatar_sessions.contract.states import UtteranceOutcome
from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from liveavatar_lite import SessionEndReason
from tests.support.platforms.generations import (
    assert_nothing_left,
    last_session_age_s,
    ledger_lines,
    own_platform,
    own_platform_without_workers,
    total_played_ms,
)
from tests.support.platforms.in_process import LONG, SHORT, Platform, new_key, wayne
from tests.support.platforms.worker_process import worker_process
from tests.support.speech.pcm import speak_live
from tests.support.waiting import until
from workers.wiring import Role


@pytest.mark.timeout(180)
async def test_an_owner_replaced_during_a_rotation_does_not_keep_the_session(
    temporal: TemporalServer,
    livekit: LiveKitServer,
    platform: Platform,
    seal_key: SecretStr,
    run_folder: Path,
) -> None:
    """kill -9 when the next generation stood ready: the old one's new owner had a later epoch than
    the next one's, which was refused as stale. No owner took commands any more, and after three
    minutes the session was given up."""
    logs = {name: run_folder / f"rotate-{name}.log" for name in ("sessions", "first", "second")}
    async with (
        own_platform_without_workers(
            temporal, livekit, platform, seal_key, plan_max_duration_s=36
        ) as brief,
        worker_process(brief, temporal, livekit, Role.SESSIONS, logs["sessions"]),
        worker_process(brief, temporal, livekit, Role.STREAMS, logs["first"]) as first,
    ):
        wish = wayne(sandbox=False, max_duration_s=600, command_ttl_s=60)
        session = await brief.sessions.start(new_key(), wish)
        await session.attach()
        async with worker_process(brief, temporal, livekit, Role.STREAMS, logs["second"]):
            await until(lambda: last_session_age_s(brief) > 18)
            speaking = asyncio.create_task(session.speak(LONG))
            await until(lambda: sum(one.sockets_open for one in ledger_lines(brief)) == 2)
            first.send_signal(signal.SIGKILL)
            await first.wait(30)
            line = await asyncio.wait_for(speaking, 60)
            again = await asyncio.wait_for(session.speak(SHORT), 40)
            report = await session.end()
    assert line.outcome is again.outcome is UtteranceOutcome.COMPLETED
    assert len(report.generations) == 2, "another rotation would have helped it out"
    assert_nothing_left(brief, report)


@pytest.mark.timeout(120)
async def test_a_session_lost_before_it_was_live_is_followed_by_another(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    """LiveAvatar ended it while its socket was connecting: the next one's owner was refused, for
    the session was still called STARTING, and billed until the start timeout."""
    async with own_platform(temporal, livekit, platform, seal_key) as fragile:
        fragile.simulator.faults.never_connected = 1
        session = await fragile.start(sandbox=False)
        await until(lambda: any(one.sockets_open for one in ledger_lines(fragile)))
        name = str(ledger_lines(fragile)[0].session_id)
        await fragile.simulator.end_session(name, SessionEndReason.SERVER_ERROR)
        await session.attach(timeout_s=30)
        report = await session.end()
        assert len(report.generations) == 2
        assert_nothing_left(fragile, report)


@pytest.mark.timeout(120)
async def test_a_session_whose_limit_comes_before_it_is_live_is_not_rotated(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    """Its socket did not become connected for eight seconds, the limit was twelve: the next
    generation waited to take over from an owner that did not exist (`internal_error`)."""
    async with own_platform(temporal, livekit, platform, seal_key, plan_max_duration_s=12) as brief:
        brief.simulator.faults.never_connected = 1
        session = await brief.start(sandbox=False, max_duration_s=600)
        await session.attach(timeout_s=50)
        report = await session.end()
        assert report.end_reason is EndReason.REQUESTED
        assert brief.simulator.ledger().peak_open == 1
        assert_nothing_left(brief, report)


@pytest.mark.timeout(120)
async def test_a_session_stopped_at_liveavatar_during_a_rotation_stays_stopped(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    """An operator stopped it at LiveAvatar when the next one had just been started: the session
    went on in the next one."""
    async with own_platform(temporal, livekit, platform, seal_key, plan_max_duration_s=24) as brief:
        session = await brief.start(sandbox=False, max_duration_s=600)
        await session.attach()
        first = str(ledger_lines(brief)[0].session_id)
        await until(lambda: last_session_age_s(brief) > 10)
        speaking = asyncio.create_task(session.speak(LONG))  # keeps the old one until its limit
        await until(lambda: sum(one.sockets_open for one in ledger_lines(brief)) == 2)
        await brief.simulator.end_session(first, SessionEndReason.USER_CLOSED)
        report = await session.report(timeout_s=30)
        await speaking
        assert report.end_reason is EndReason.PROVIDER_ENDED
        assert_nothing_left(brief, report)


async def generation_of(session: Session, number: int) -> None:
    """Wait until that generation is live."""
    async with asyncio.timeout(30):
        while (status := await session.status()).generation < number or status.state != "LIVE":
            await asyncio.sleep(0.1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["ended", "frozen"])
async def test_a_session_that_liveavatar_loses_goes_on_in_another(
    temporal: TemporalServer,
    livekit: LiveKitServer,
    platform: Platform,
    seal_key: SecretStr,
    how: str,
) -> None:
    """Lost in mid-sentence: the next one speaks the rest from the first sample not heard."""
    async with own_platform(temporal, livekit, platform, seal_key) as fragile:
        session = await fragile.start(sandbox=False)
        async with session.live() as live:
            saying = asyncio.create_task(speak_live(live, 9))
            await until(lambda: total_played_ms(fragile) > 2000)
            name = str(ledger_lines(fragile)[0].session_id)
            if how == "ended":
                await fragile.simulator.end_session(name, SessionEndReason.SERVER_ERROR)
            else:
                fragile.simulator.freeze_session(name)
            line = await saying
            await generation_of(session, 2)
        report = await session.end()
        assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 9000)
        assert 9000 - 20 <= total_played_ms(fragile) <= 9000 + 1500
        assert report.end_reason is EndReason.REQUESTED
        assert len(report.generations) == 2
        assert_nothing_left(fragile, report)


async def test_a_session_stopped_at_liveavatar_stays_stopped(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    """An operator stopped it at LiveAvatar: another one would be unwanted."""
    async with own_platform(temporal, livekit, platform, seal_key) as fragile:
        session = await fragile.start(sandbox=False)
        await session.attach()
        name = str(ledger_lines(fragile)[0].session_id)
        await fragile.simulator.end_session(name, SessionEndReason.USER_CLOSED)
        report = await session.report()
        assert report.end_reason is EndReason.PROVIDER_ENDED
        assert len(report.generations) == 1
        assert_nothing_left(fragile, report)


@pytest.mark.timeout(120)
async def test_a_clip_goes_on_in_another_session(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    async with own_platform(temporal, livekit, platform, seal_key) as fragile:
        session = await fragile.start(sandbox=False)
        await session.attach()
        saying = asyncio.create_task(session.speak(LONG))
        await until(lambda: total_played_ms(fragile) > 3000)
        name = str(ledger_lines(fragile)[0].session_id)
        await fragile.simulator.end_session(name, SessionEndReason.SERVER_ERROR)
        line = await saying
        report = await session.end()
        assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 12_000)
        assert 12_000 - 20 <= total_played_ms(fragile) <= 12_000 + 500
        assert_nothing_left(fragile, report)
