"""A session outlives LiveAvatar's limit: the next generation takes over without a gap."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from avatar_sessions import Clip, EndReason
from avatar_sessions.contract.states import UtteranceOutcome
from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from tests.support.platforms.generations import (
    BRIEF_S,
    assert_nothing_left,
    ledger_lines,
    own_platform,
    total_played_ms,
)
from tests.support.platforms.in_process import Platform
from tests.support.speech.pcm import speak_live


@pytest.mark.timeout(120)
async def test_a_conversation_outlives_liveavatars_limit(brief: Platform) -> None:
    """Three LiveAvatar sessions, one conversation: the next one takes over between sentences."""
    session = await brief.start(sandbox=False, max_duration_s=600)
    async with session.live() as live:
        for number in range(14):
            line = await speak_live(live, 3)
            assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 3000), number
            assert line.gaps == []
    report = await session.end()
    assert report.end_reason is EndReason.REQUESTED
    assert len(report.generations) >= 3
    assert report.takeovers == 0
    assert total_played_ms(brief) == pytest.approx(42_000, abs=20)
    # Each sentence was said by one of them.
    assert all(one.outcome == "played" for line in ledger_lines(brief) for one in line.utterances)
    assert_nothing_left(brief, report)


@pytest.mark.timeout(120)
async def test_clips_go_on_through_a_rotation(brief: Platform) -> None:
    session = await brief.start(sandbox=False, max_duration_s=600)
    await session.attach()
    for _ in range(9):
        line = await session.speak(Clip(file="middle.wav"))
        assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 3000)
    report = await session.end()
    assert len(report.generations) >= 2
    assert total_played_ms(brief) == pytest.approx(27_000, abs=20)
    assert_nothing_left(brief, report)


@pytest.mark.timeout(120)
async def test_a_sentence_longer_than_the_limit_goes_on_in_the_next_session(
    brief: Platform,
) -> None:
    """Without a pause it is cut at the limit, and goes on from the first sample not heard."""
    session = await brief.start(sandbox=False, max_duration_s=600)
    async with session.live() as live:
        line = await speak_live(live, 30)
    report = await session.end()
    assert (line.outcome, line.heard_ms) == (UtteranceOutcome.COMPLETED, 30_000)
    assert len(report.generations) >= 2
    assert 30_000 - 20 <= total_played_ms(brief) <= 30_000 + 500
    assert_nothing_left(brief, report)


@pytest.mark.timeout(120)
async def test_where_only_one_session_may_run_it_is_stopped_first(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> None:
    """The free plan: the next generation can only be started when the other is stopped."""
    async with own_platform(
        temporal,
        livekit,
        platform,
        seal_key,
        plan_max_duration_s=12,
        concurrency_limit=1,
    ) as alone:
        session = await alone.start(sandbox=False, max_duration_s=600)
        async with session.live() as live:
            said = [await speak_live(live, 3) for _ in range(5)]
        report = await session.end()
        assert {one.outcome for one in said} == {UtteranceOutcome.COMPLETED}
        assert 15_000 - 20 <= total_played_ms(alone) <= 15_000 + 500
        assert len([one for one in report.generations if one.started_at]) >= 2
        assert alone.simulator.ledger().peak_open == 1
        assert_nothing_left(alone, report)


async def test_without_rotation_the_limit_ends_the_session(brief: Platform) -> None:
    session = await brief.start(sandbox=False, max_duration_s=BRIEF_S, rotate=False)
    await session.attach()
    report = await session.report()
    assert report.end_reason is EndReason.MAX_DURATION
    assert len(report.generations) == 1
    assert_nothing_left(brief, report)


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
