"""The owned session: its socket, poses, interrupts and its end."""

from __future__ import annotations

import asyncio
import time

import pytest
from pydantic import SecretStr

from avatar_sessions.contract.activities import StreamEnd
from avatar_sessions.contract.states import CommandOutcome, Pose, UtteranceOutcome
from liveavatar_lite import LiteConnection
from owner.session import OwnedState, OwnerNotReady
from tests.support.owner_under_test import OwnerUnderTest, begin, clip, tone
from tests.support.waiting import until


@pytest.mark.slow
async def test_speech_goes_on_when_a_lost_socket_is_back(owner: OwnerUnderTest) -> None:
    """LiveAvatar plays on what it has: nothing of the utterance is lost, nothing is sent twice."""
    await owner.session.set_pose(Pose.LISTENING)
    owner.simulator.faults.dropped_sockets = 1
    report = await owner.speak("u1", 1, clip(tone(5)))
    assert report.outcome is UtteranceOutcome.COMPLETED
    assert (report.sent_ms, report.heard_ms) == (5000, 5000)
    assert owner.sent == [("u1", 5000)]
    assert owner.supervisor.losses == 1
    assert owner.supervisor.gaps_ms[0] == 0
    assert owner.supervisor.gaps_ms[1] >= 1
    second = await owner.speak("u2", 2, clip(tone(0.5)))
    assert second.outcome is UtteranceOutcome.COMPLETED
    assert owner.commands.count("agent.start_listening") == 2, "the pose came back"


@pytest.mark.slow
async def test_a_session_that_was_closed_opens_no_socket(owner: OwnerUnderTest) -> None:
    """It was handed over while its socket was being opened again: it opened one all the same, which
    would have closed the next owner's, failed on its own state, and left that socket open."""
    owner.simulator.faults.never_connected = 1
    owner.simulator.sessions[owner.provider_session_id].drop_socket()
    await until(lambda: owner.session.state is OwnedState.RECONNECTING)
    await until(lambda: owner.ledger_line.sockets_total == 2)
    await owner.session.close(handover=True)
    result = await asyncio.wait_for(owner.running, 20)
    assert result.end is StreamEnd.RELEASED
    await until(lambda: owner.ledger_line.sockets_open == 0)
    assert owner.ledger_line.sockets_total == 2


async def test_an_interrupt_without_a_socket_is_sent_by_the_next_one(
    owner: OwnerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first new socket broke as it opened, and the interrupt was reported as done: LiveAvatar
    played on all that it had."""
    first = begin(owner, "u1", 5.0)
    first.finish()
    await until(lambda: first.heard_s(time.monotonic()) > 0.3)
    opened = LiteConnection.open
    tries = iter((True,))

    async def open_badly(ws_url: SecretStr, **options: float) -> LiteConnection:
        connection = await opened(ws_url, **options)  # type: ignore[arg-type]
        if next(tries, False):
            connection._socket.transport.abort()
            await until(lambda: connection.close_code is not None)
        return connection

    monkeypatch.setattr(LiteConnection, "open", open_badly)
    owner.break_socket()
    await until(lambda: owner.session.state is OwnedState.RECONNECTING)
    name, heard_s = await asyncio.wait_for(owner.session.interrupt_in_band("stop"), 20)
    assert name == "u1"
    assert heard_s > 0.3
    assert "agent.interrupt" in owner.commands
    assert await owner.outcomes(1) == [UtteranceOutcome.INTERRUPTED]
    begin(owner, "u2", 0.5).finish()
    assert await owner.outcomes(2) == [UtteranceOutcome.INTERRUPTED, UtteranceOutcome.COMPLETED]


async def test_an_interrupt_is_always_sent_but_spares_clips_requested_later(
    owner: OwnerUnderTest,
) -> None:
    """A plugin that sent it only while it believed the avatar to speak lost barge-in for weeks."""
    assert await owner.session.interrupt(0) is CommandOutcome.SENT
    await until(lambda: owner.commands == ["agent.interrupt"])
    speaking = asyncio.create_task(owner.speak("u2", 2, clip(tone(0.6))))
    await until(lambda: owner.session.speaking == "u2")
    await owner.session.interrupt(1)
    assert (await speaking).outcome is UtteranceOutcome.COMPLETED
    assert owner.commands.count("agent.interrupt") == 1


async def test_an_interrupt_resets_the_pose_and_the_session_restores_it(
    owner: OwnerUnderTest,
) -> None:
    """LiveAvatar goes idle on an interrupt: the avatar no longer looked as if it listened."""
    await owner.session.set_pose(Pose.LISTENING)
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(8))))
    await until(lambda: "agent.speak" in owner.commands)
    await owner.session.interrupt(1)
    await speaking
    await until(lambda: owner.commands[-1] == "agent.start_listening")
    await owner.session.interrupt(1)
    await until(lambda: owner.commands[-2:] == ["agent.interrupt", "agent.start_listening"])


async def test_a_pose_requested_during_speech_follows_it(owner: OwnerUnderTest) -> None:
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(0.6))))
    await until(lambda: owner.session.speaking is not None)
    assert await owner.session.set_pose(Pose.LISTENING) is CommandOutcome.DEFERRED
    await speaking
    await until(lambda: owner.commands[-1] == "agent.start_listening")
    commands = owner.commands
    assert commands.index("agent.speak_end") < commands.index("agent.start_listening")


async def test_stop_feeding_cancels_speech_and_refuses_more(owner: OwnerUnderTest) -> None:
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(8))))
    await until(lambda: owner.session.speaking is not None)
    owner.session.stop_feeding(1)
    assert (await speaking).outcome is UtteranceOutcome.CANCELLED
    with pytest.raises(OwnerNotReady):
        await owner.speak("u2", 2, clip(tone(0.5)))
    with pytest.raises(OwnerNotReady):
        await owner.session.set_pose(Pose.IDLE)
    result = await asyncio.wait_for(owner.running, 15)
    assert result.end is StreamEnd.RELEASED


async def test_close_ends_everything_within_bounds(owner: OwnerUnderTest) -> None:
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(8))))
    await until(lambda: owner.session.speaking is not None)
    await asyncio.wait_for(owner.session.close(), 10)
    await owner.session.close()
    assert (await speaking).outcome is UtteranceOutcome.LOST
    assert owner.session.state is OwnedState.CLOSED
