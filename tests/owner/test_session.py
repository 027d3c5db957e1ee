"""The owned session: one mouth, one order, and no utterance left open."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest

from avatar_sessions.contract.activities import StreamEnd
from avatar_sessions.contract.states import CommandOutcome, Pose, UtteranceOutcome
from liveavatar_lite import SAMPLE_RATE_HZ
from owner.clip_queue import OpenClip
from owner.session import OwnedState, OwnerNotReady
from tests.owner.conftest import OwnerUnderTest
from tests.support.waiting import until


def tone(seconds: float) -> bytes:
    t = np.arange(int(SAMPLE_RATE_HZ * seconds)) / SAMPLE_RATE_HZ
    return (0.3 * 32767 * np.sin(2 * np.pi * 220 * t)).astype("<i2").tobytes()


def clip(pcm: bytes) -> OpenClip:
    """A clip that is there already, read in pieces of a second."""

    class Read:
        duration_s = len(pcm) / 48_000

        def __init__(self) -> None:
            self.pieces = [pcm[at : at + 48_000] for at in range(0, len(pcm), 48_000)]

        async def read(self) -> bytes:
            return self.pieces.pop(0) if self.pieces else b""

    return lambda: contextlib.nullcontext(Read())


def never(asked: asyncio.Event) -> OpenClip:
    """A clip that does not come."""

    class Never:
        duration_s = None

        async def read(self) -> bytes:
            asked.set()
            await asyncio.Event().wait()
            return b""

    return lambda: contextlib.nullcontext(Never())


def commands(owner: OwnerUnderTest) -> list[str]:
    return [command.type for command in owner.line.commands]


async def test_an_utterance_is_sent_whole_under_one_id_and_heard(owner: OwnerUnderTest) -> None:
    report = await owner.speak("u1", 1, clip(tone(1.7)))
    assert report.outcome is UtteranceOutcome.COMPLETED
    assert report.sent_ms == report.heard_ms == 1700
    (played,) = owner.line.utterances
    assert played.sent_ms == 1700
    assert {one.event_id for one in owner.line.commands if one.type == "agent.speak"} == {"u1"}
    assert commands(owner) == ["agent.speak"] * 3 + ["agent.speak_end"]


async def test_two_utterances_take_turns(owner: OwnerUnderTest) -> None:
    first, second = await asyncio.gather(
        owner.speak("u1", 1, clip(tone(0.8))), owner.speak("u2", 2, clip(tone(0.5)))
    )
    assert first.outcome is second.outcome is UtteranceOutcome.COMPLETED
    assert second.started_at is not None
    assert first.ended_at is not None
    spoken = [one.event_id for one in owner.line.commands if one.type == "agent.speak"]
    assert spoken == ["u1", "u1", "u2", "u2"]


async def test_sending_stays_within_the_lead(owner: OwnerUnderTest) -> None:
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(8))))
    await until(lambda: len(commands(owner)) >= 2)
    await asyncio.sleep(1.0)
    sent_ms = sum(one.pcm_ms or 0 for one in owner.line.commands)
    assert sent_ms <= 1000 + 2000 + 1100  # heard, lead, and a chunk's slack on a busy machine
    await owner.session.interrupt(1)
    report = await speaking
    assert report.outcome is UtteranceOutcome.INTERRUPTED
    assert report.heard_ms <= report.sent_ms


async def test_an_interrupt_is_always_sent_but_cuts_nothing_that_was_asked_later(
    owner: OwnerUnderTest,
) -> None:
    """A plugin that sent it only while it believed the avatar to talk lost barge-in for weeks."""
    assert await owner.session.interrupt(0) is CommandOutcome.SENT
    await until(lambda: commands(owner) == ["agent.interrupt"])
    speaking = asyncio.create_task(owner.speak("u2", 2, clip(tone(0.6))))
    await until(lambda: owner.session.speaking == "u2")
    await owner.session.interrupt(1)
    assert (await speaking).outcome is UtteranceOutcome.COMPLETED
    assert commands(owner).count("agent.interrupt") == 1


async def test_speech_that_arrives_after_its_interrupt_is_not_said(owner: OwnerUnderTest) -> None:
    """Signal, activity and interrupt overtake each other: the number decides, not the moment."""
    await owner.session.interrupt(3)
    report = await owner.speak("u3", 3, clip(tone(0.5)))
    assert report.outcome is UtteranceOutcome.INTERRUPTED
    assert report.sent_ms == 0
    assert (await owner.speak("u4", 4, clip(tone(0.5)))).outcome is UtteranceOutcome.COMPLETED


async def test_a_clip_is_said_once_and_to_its_end_whoever_asks(owner: OwnerUnderTest) -> None:
    """The server lost sight of the activity that asked, and another one asks for the same clip: it
    finds it being said. Whoever asks later still is told what became of it."""
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(2))))
    await until(lambda: "agent.speak" in commands(owner))
    speaking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await speaking
    report = await owner.speak("u1", 1, clip(tone(2)))
    assert (report.outcome, report.heard_ms) == (UtteranceOutcome.COMPLETED, 2000)
    assert await owner.speak("u1", 1, clip(tone(2))) == report
    assert (await owner.speak("u2", 2, clip(tone(0.5)))).outcome is UtteranceOutcome.COMPLETED
    assert [one.played_ms for one in owner.line.utterances] == [2000, 500]


async def test_an_interrupt_takes_the_pose_and_it_comes_back(owner: OwnerUnderTest) -> None:
    """LiveAvatar goes idle on an interrupt: the avatar no longer looked as if it listened."""
    await owner.session.set_pose(Pose.LISTENING)
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(8))))
    await until(lambda: "agent.speak" in commands(owner))
    await owner.session.interrupt(1)
    await speaking
    await until(lambda: commands(owner)[-1] == "agent.start_listening")
    await owner.session.interrupt(1)
    await until(lambda: commands(owner)[-2:] == ["agent.interrupt", "agent.start_listening"])


async def test_an_interrupt_cuts_a_clip_that_has_not_come(owner: OwnerUnderTest) -> None:
    """A clip whose server never answered held the session's speech, and its end, for a minute."""
    asked = asyncio.Event()
    speaking = asyncio.create_task(owner.speak("u1", 1, never(asked)))
    await asyncio.wait_for(asked.wait(), 5)
    await owner.session.interrupt(1)
    report = await asyncio.wait_for(speaking, 5)
    assert (report.outcome, report.sent_ms) == (UtteranceOutcome.INTERRUPTED, 0)


async def test_a_clip_that_has_not_come_holds_nobody_up(owner: OwnerUnderTest) -> None:
    asked = asyncio.Event()
    waiting = asyncio.create_task(owner.speak("u1", 1, never(asked)))
    await asyncio.wait_for(asked.wait(), 5)
    report = await owner.speak("u2", 2, clip(tone(0.5)))
    assert report.outcome is UtteranceOutcome.COMPLETED
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_a_pose_asked_for_during_speech_follows_it(owner: OwnerUnderTest) -> None:
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(0.6))))
    await until(lambda: owner.session.speaking is not None)
    assert await owner.session.set_pose(Pose.LISTENING) is CommandOutcome.DEFERRED
    await speaking
    await until(lambda: commands(owner)[-1] == "agent.start_listening")
    assert commands(owner).index("agent.speak_end") < commands(owner).index("agent.start_listening")


async def test_speech_goes_on_when_a_dropped_socket_is_back(owner: OwnerUnderTest) -> None:
    """LiveAvatar says on what it has: nothing of the utterance is lost, and nothing said twice."""
    await owner.session.set_pose(Pose.LISTENING)
    owner.simulator.faults.dropped_sockets = 1
    report = await owner.speak("u1", 1, clip(tone(5)))
    assert report.outcome is UtteranceOutcome.COMPLETED
    assert (report.sent_ms, report.heard_ms) == (5000, 5000)
    assert [line.sent_ms for line in owner.line.utterances] == [5000]
    assert owner.losses == 1
    assert owner.gaps_ms[0] == 0
    assert owner.gaps_ms[1] >= 1
    second = await owner.speak("u2", 2, clip(tone(0.5)))
    assert second.outcome is UtteranceOutcome.COMPLETED
    assert commands(owner).count("agent.start_listening") == 2, "the pose came back"


async def test_stop_feeding_cancels_speech_and_refuses_more(owner: OwnerUnderTest) -> None:
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(8))))
    await until(lambda: owner.session.speaking is not None)
    owner.session.stop_feeding(1)
    assert (await speaking).outcome is UtteranceOutcome.CANCELLED
    with pytest.raises(OwnerNotReady):
        await owner.speak("u2", 2, clip(tone(0.5)))
    with pytest.raises(OwnerNotReady):
        await owner.session.set_pose(Pose.IDLE)
    assert owner.running is not None
    result = await asyncio.wait_for(owner.running, 15)
    assert result.end is StreamEnd.RELEASED


async def test_closing_ends_everything_within_bounds(owner: OwnerUnderTest) -> None:
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(8))))
    await until(lambda: owner.session.speaking is not None)
    await asyncio.wait_for(owner.session.close(), 10)
    await owner.session.close()
    assert (await speaking).outcome is UtteranceOutcome.LOST
    assert owner.session.state is OwnedState.CLOSED
