"""Clips of an owned session: played once, in order, and continued from an earlier owner."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from avatar_sessions.contract.states import UtteranceOutcome
from owner.clip_queue import ClipJob
from tests.support.owner_under_test import OwnerUnderTest, clip, clip_that_does_not_arrive, tone
from tests.support.waiting import until


async def test_a_clip_is_played_once_and_to_its_end_however_often_it_is_requested(
    owner: OwnerUnderTest,
) -> None:
    """The server lost sight of the activity that requested a clip, and another one requests it
    again: it finds the clip playing. A still later request gets the report."""
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(2))))
    await until(lambda: "agent.speak" in owner.commands)
    speaking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await speaking
    report = await owner.speak("u1", 1, clip(tone(2)))
    assert (report.outcome, report.heard_ms) == (UtteranceOutcome.COMPLETED, 2000)
    assert await owner.speak("u1", 1, clip(tone(2))) == report
    assert (await owner.speak("u2", 2, clip(tone(0.5)))).outcome is UtteranceOutcome.COMPLETED
    assert [one.played_ms for one in owner.ledger_line.utterances] == [2000, 500]


async def test_a_clip_that_arrives_after_its_interrupt_is_not_played(
    owner: OwnerUnderTest,
) -> None:
    """Signal, activity and interrupt overtake each other: the sequence number decides, not the
    moment."""
    await owner.session.interrupt(3)
    report = await owner.speak("u3", 3, clip(tone(0.5)))
    assert report.outcome is UtteranceOutcome.INTERRUPTED
    assert report.sent_ms == 0
    assert (await owner.speak("u4", 4, clip(tone(0.5)))).outcome is UtteranceOutcome.COMPLETED


async def test_an_interrupt_ends_a_clip_whose_audio_has_not_arrived(owner: OwnerUnderTest) -> None:
    """A clip whose server never answered held the session's speech, and its end, for a minute."""
    asked = asyncio.Event()
    speaking = asyncio.create_task(owner.speak("u1", 1, clip_that_does_not_arrive(asked)))
    await asyncio.wait_for(asked.wait(), 5)
    await owner.session.interrupt(1)
    report = await asyncio.wait_for(speaking, 5)
    assert (report.outcome, report.sent_ms) == (UtteranceOutcome.INTERRUPTED, 0)


async def test_a_clip_whose_audio_has_not_arrived_takes_no_turn(owner: OwnerUnderTest) -> None:
    asked = asyncio.Event()
    waiting = asyncio.create_task(owner.speak("u1", 1, clip_that_does_not_arrive(asked)))
    await asyncio.wait_for(asked.wait(), 5)
    report = await owner.speak("u2", 2, clip(tone(0.5)))
    assert report.outcome is UtteranceOutcome.COMPLETED
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_another_owners_clock_does_not_delay_a_clip(owner: OwnerUnderTest) -> None:
    """The earlier owner's clock ran a minute ahead: its clip went on after a minute of silence."""
    ahead = ClipJob(
        "u1",
        1,
        clip(tone(90)),
        offset_bytes=89 * 48_000,
        played_out_at=datetime.now(UTC) + timedelta(seconds=60),
    )
    spoken = await asyncio.wait_for(owner.session.speak(ahead), 15)
    assert (spoken.report.outcome, spoken.report.sent_ms) == (UtteranceOutcome.COMPLETED, 90_000)
