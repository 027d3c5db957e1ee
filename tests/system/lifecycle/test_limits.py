"""How many history events a session takes, and what happens at Temporal's limits."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from avatar_sessions import Clip
from avatar_sessions.contract.messages import Interrupt, KeepAlive, SetPose, Speak
from avatar_sessions.contract.states import CommandOutcome, UtteranceOutcome
from tests.support.platforms.in_process import Platform, history_length

COMMAND_EVENTS = 12
UTTERANCE_EVENTS = 5


async def test_a_command_costs_at_most_twelve_events(platform: Platform) -> None:
    session = await platform.start(sandbox=False)
    await session.attach()
    before = await history_length(platform, session)
    for _ in range(10):
        await session.interrupt()
    by_update = await history_length(platform, session) - before
    for _ in range(10):
        await session.send(Interrupt())
        await session.keep_alive()  # so that it is done before the next
    by_both = await history_length(platform, session) - before - by_update
    await session.end()
    assert by_update <= 10 * COMMAND_EVENTS
    assert by_both <= 20 * COMMAND_EVENTS


@pytest.mark.timeout(120)
async def test_a_live_utterance_costs_at_most_five_events(platform: Platform) -> None:
    """Awaited one by one, each reported by its own signal: the most expensive way."""
    session = await platform.start(sandbox=False)
    count = 4
    async with session.live() as live:
        before = await history_length(platform, session)
        for number in range(count):
            async with live.utterance() as speech:
                await speech.write(np.zeros(12_000, np.int16))
            await speech.result()
            async with asyncio.timeout(20):
                while (await session.status()).utterances <= number:
                    await asyncio.sleep(0.1)
        after = await history_length(platform, session)
    await session.end()
    assert after - before <= count * UTTERANCE_EVENTS


async def test_eleven_concurrent_commands_are_all_done(platform: Platform) -> None:
    """Temporal takes ten concurrent updates of a workflow; the eleventh waits until one is done."""
    session = await platform.start(sandbox=False)
    await session.attach()
    answers = await asyncio.gather(
        *(session.interrupt() for _ in range(6)),
        *(session.set_pose("listening") for _ in range(5)),
    )
    assert {one.outcome for one in answers} <= {CommandOutcome.SENT, CommandOutcome.DEFERRED}
    report = await session.end()
    assert report.ignored_count == 0


async def test_a_burst_of_everything_comes_through_in_order(platform: Platform) -> None:
    """Eleven signals together, speech among them: nothing is lost, and order is kept."""
    session = await platform.start(sandbox=False)
    await session.attach()
    for number in range(3):
        await session.send(Speak(clip=Clip(file="short.wav"), command_id=f"first-{number}"))
        await session.send(KeepAlive())
    await session.send(Interrupt())
    await session.send(SetPose(pose="listening"))
    for number in range(3):
        await session.send(Speak(clip=Clip(file="short.wav"), command_id=f"second-{number}"))
    report = await session.end(finish_speaking=True)
    outcomes = {one.id: one.outcome for one in report.utterances}
    assert len(outcomes) == 6
    assert all(outcomes[f"first-{n}"] is UtteranceOutcome.INTERRUPTED for n in range(3))
    assert all(outcomes[f"second-{n}"] is UtteranceOutcome.COMPLETED for n in range(3))
