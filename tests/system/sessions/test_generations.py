"""One LiveAvatar session after the other: what ends one does not end ours, and nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from pydantic import SecretStr

from avatar_sessions import AvatarSessions, Clip, EndReason, Session, SessionReport
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.seal import Seal
from deploy.local.stack import LiveKitServer, TemporalServer
from liveavatar_lite import SessionEndReason
from liveavatar_simulator import LiveAvatarSimulator, SessionLine
from tests.support.waiting import until
from tests.system.sessions.conftest import (
    Platform,
    own_namespace,
    record_histories,
    running_workers,
    simulator_settings,
)
from tests.system.sessions.test_live_takeover import say

LIMIT_S = 24
SHORT, LONG = Clip(file="short.wav"), Clip(file="long.wav")


@contextlib.asynccontextmanager
async def lab(
    temporal: TemporalServer,
    livekit: LiveKitServer,
    platform: Platform,
    seal_key: SecretStr,
    **settings: object,
) -> AsyncIterator[Platform]:
    """A LiveAvatar of our own, with workers that know no other."""
    client = await own_namespace(temporal)
    wanted = simulator_settings(livekit, **{"join_rooms": False, **settings})
    async with LiveAvatarSimulator(wanted) as simulator:
        workers = platform.settings.model_copy(update={"liveavatar_api_url": simulator.url})
        async with running_workers(client, workers):
            yield replace(
                platform,
                simulator=simulator,
                client=client,
                settings=workers,
                sessions=AvatarSessions(client, Seal([seal_key])),
            )
        if platform.records:
            await record_histories(client, suffix="+generations")


@pytest_asyncio.fixture
async def brief(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> AsyncIterator[Platform]:
    """LiveAvatar's sessions last 24 seconds, and then freeze without a word."""
    async with lab(temporal, livekit, platform, seal_key, plan_max_duration_s=LIMIT_S) as platform:
        yield platform


def lines(platform: Platform) -> list[SessionLine]:
    return platform.simulator.ledger().sessions


def heard_ms(platform: Platform) -> float:
    return sum(one.played_ms for line in lines(platform) for one in line.utterances)


def nothing_left(platform: Platform, report: SessionReport) -> None:
    """Every LiveAvatar session stands in the report as it stands in the ledger."""
    ledger = platform.simulator.ledger()
    assert ledger.open == 0
    assert all(line.sockets_open == 0 for line in ledger.sessions)
    billed = {str(line.session_id): line.billed_s for line in ledger.sessions if line.started_at}
    told = {one.provider_session_id: one.billed_s for one in report.generations if one.started_at}
    assert told.keys() == billed.keys()
    for name, seconds in billed.items():
        assert told[name] == pytest.approx(seconds, abs=1), name


@pytest.mark.timeout(120)
async def test_a_conversation_outlives_liveavatars_limit(brief: Platform) -> None:
    """Three LiveAvatar sessions, one conversation: the next one takes over between sentences."""
    session = await brief.start(sandbox=False, max_duration_s=600)
    async with session.live() as live:
        for number in range(14):
            line = await say(live, 3)
            assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 3000), number
            assert line.gaps == []
    report = await session.end()
    assert report.end_reason is EndReason.REQUESTED
    assert len(report.generations) >= 3
    assert report.takeovers == 0
    assert heard_ms(brief) == pytest.approx(42_000, abs=20)
    # Each sentence was said by one of them.
    assert all(one.outcome == "played" for line in lines(brief) for one in line.utterances)
    nothing_left(brief, report)


@pytest.mark.timeout(120)
async def test_clips_go_on_through_a_rotation(brief: Platform) -> None:
    session = await brief.start(sandbox=False, max_duration_s=600)
    await session.attach()
    for _ in range(9):
        line = await session.speak(Clip(file="middle.wav"))
        assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 3000)
    report = await session.end()
    assert len(report.generations) >= 2
    assert heard_ms(brief) == pytest.approx(27_000, abs=20)
    nothing_left(brief, report)


@pytest.mark.timeout(120)
async def test_a_sentence_longer_than_the_limit_goes_on_in_the_next_session(
    brief: Platform,
) -> None:
    """It has no border: it is cut where it stands, and goes on from the first sample not heard."""
    session = await brief.start(sandbox=False, max_duration_s=600)
    async with session.live() as live:
        line = await say(live, 30)
    report = await session.end()
    assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 30_000)
    assert len(report.generations) >= 2
    assert 30_000 - 20 <= heard_ms(brief) <= 30_000 + 500
    nothing_left(brief, report)


@pytest.mark.timeout(120)
async def test_where_only_one_session_may_run_it_is_stopped_first(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    """The free plan: the next generation can only be started when the other is stopped."""
    async with lab(
        temporal,
        livekit,
        platform,
        seal_key,
        plan_max_duration_s=12,
        concurrency_limit=1,
    ) as alone:
        session = await alone.start(sandbox=False, max_duration_s=600)
        async with session.live() as live:
            said = [await say(live, 3) for _ in range(5)]
        report = await session.end()
        assert {one.outcome for one in said} == {UtteranceOutcome.COMPLETED}
        assert 15_000 - 20 <= heard_ms(alone) <= 15_000 + 500
        assert len([one for one in report.generations if one.started_at]) >= 2
        assert alone.simulator.ledger().peak_open == 1
        nothing_left(alone, report)


async def test_without_rotation_the_limit_ends_the_session(brief: Platform) -> None:
    session = await brief.start(sandbox=False, max_duration_s=LIMIT_S, rotate=False)
    await session.attach()
    report = await session.report()
    assert report.end_reason is EndReason.MAX_DURATION
    assert len(report.generations) == 1
    nothing_left(brief, report)


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
    """In the middle of a sentence: the next one says the rest from the first sample not heard."""
    async with lab(temporal, livekit, platform, seal_key) as fragile:
        session = await fragile.start(sandbox=False)
        async with session.live() as live:
            saying = asyncio.create_task(say(live, 9))
            await until(lambda: heard_ms(fragile) > 2000)
            name = str(lines(fragile)[0].session_id)
            if how == "ended":
                await fragile.simulator.end_session(name, SessionEndReason.SERVER_ERROR)
            else:
                fragile.simulator.freeze_session(name)
            line = await saying
            await generation_of(session, 2)
        report = await session.end()
        assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 9000)
        assert 9000 - 20 <= heard_ms(fragile) <= 9000 + 1500
        assert report.end_reason is EndReason.REQUESTED
        assert len(report.generations) == 2
        nothing_left(fragile, report)


async def test_a_session_that_somebody_stopped_stays_stopped(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    """An operator stopped it at LiveAvatar: another one would be unwanted."""
    async with lab(temporal, livekit, platform, seal_key) as fragile:
        session = await fragile.start(sandbox=False)
        await session.attach()
        name = str(lines(fragile)[0].session_id)
        await fragile.simulator.end_session(name, SessionEndReason.USER_CLOSED)
        report = await session.report()
        assert report.end_reason is EndReason.PROVIDER_ENDED
        assert len(report.generations) == 1
        nothing_left(fragile, report)


@pytest.mark.timeout(120)
async def test_a_clip_goes_on_in_another_session(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    async with lab(temporal, livekit, platform, seal_key) as fragile:
        session = await fragile.start(sandbox=False)
        await session.attach()
        saying = asyncio.create_task(session.speak(LONG))
        await until(lambda: heard_ms(fragile) > 3000)
        name = str(lines(fragile)[0].session_id)
        await fragile.simulator.end_session(name, SessionEndReason.SERVER_ERROR)
        line = await saying
        report = await session.end()
        assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 12_000)
        assert 12_000 - 20 <= heard_ms(fragile) <= 12_000 + 500
        nothing_left(fragile, report)


@pytest.mark.timeout(120)
async def test_an_end_in_the_middle_of_a_rotation_leaves_nothing(brief: Platform) -> None:
    """Both are stopped, also one whose start is under way."""
    for pause_s in (15.9, 16.1, 16.5):
        brief.simulator.faults.slow_start_s = 0.0
        session = await brief.start(sandbox=False, max_duration_s=600)
        await session.attach()
        brief.simulator.faults.slow_start_s = 0.4
        await asyncio.sleep(pause_s)
        report = await session.end()
        assert report.cleanup.provider_stopped
        ledger = brief.simulator.ledger()
        assert ledger.open == 0, pause_s
