"""The playout: turns, the lead, and segments that survive a lost socket."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from avatar_sessions.contract.states import UtteranceOutcome
from deploy.local.relay import TcpRelay
from liveavatar_simulator import LiveAvatarSimulator
from owner.playout_queue import CLEAR_TIMEOUT_S, Playout
from owner.utterance_chunks import Utterance
from tests.support.owner_under_test import (
    OwnerUnderTest,
    begin,
    clip,
    owner_of,
    simulator_settings,
    tone,
)
from tests.support.scripted_connection import ScriptedConnection
from tests.support.waiting import until


class Listener:
    """Keeps what the playout reports."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.interrupts = 0

    def on_progress(self, utterance: Utterance) -> None: ...

    def on_playback_started(self, utterance: Utterance) -> None:
        self.started.append(utterance.id)

    def on_interrupt_sent(self) -> None:
        self.interrupts += 1


def utterance_of(name: str, sequence: int, *, seconds: float = 0.2) -> Utterance:
    """A clip's utterance that is all there."""
    now_s = time.monotonic()
    utterance = Utterance(name, now_s=now_s, max_lead_s=2.0, sequence=sequence)
    utterance.write(tone(seconds), now_s)
    utterance.finish()
    return utterance


async def playing(playout: Playout, utterance: Utterance) -> asyncio.Task[None]:
    """Queue an utterance and play it in a task of its own."""
    playout.queue(utterance)
    task = asyncio.create_task(playout.play(utterance))
    await asyncio.sleep(0)
    return task


# --- without a server -------------------------------------------------------------------


async def test_speech_waits_for_the_answer_to_an_interrupt() -> None:
    """Speech that was sent before LiveAvatar had cleared its buffer was cleared with the old."""
    connection, playout = ScriptedConnection(), Playout(Listener())
    await playout.on_connected(connection.as_connection(), interrupt=False)
    first = await playing(playout, utterance_of("u1", 1))
    await until(lambda: ("speak_end", "u1") in connection.commands)
    name, _ = await playout.interrupt(1, "stop")
    assert name == "u1"
    second = await playing(playout, utterance_of("u2", 2))
    await asyncio.sleep(0.05)
    assert connection.commands[-1] == ("interrupt", "stop")
    playout.on_buffer_cleared()
    await until(lambda: connection.commands[-1] == ("speak_end", "u2"))
    playout.on_playback_finished("u1", interrupted=True)
    playout.on_playback_finished("u2", interrupted=False)
    await asyncio.wait_for(asyncio.gather(first, second), 5)


async def test_an_interrupt_without_an_answer_delays_speech_for_a_second_at_most() -> None:
    connection, playout = ScriptedConnection(), Playout(Listener())
    await playout.on_connected(connection.as_connection(), interrupt=False)
    first = await playing(playout, utterance_of("u1", 1))
    await until(lambda: ("speak_end", "u1") in connection.commands)
    await playout.interrupt(1)
    second = await playing(playout, utterance_of("u2", 2))
    await until(lambda: ("speak_end", "u2") in connection.commands, within_s=CLEAR_TIMEOUT_S + 2)
    playout.on_playback_finished("u2", interrupted=False)
    await asyncio.wait_for(asyncio.gather(first, second), 5)


async def test_a_discarded_utterance_is_never_begun() -> None:
    connection, playout = ScriptedConnection(), Playout(Listener())
    await playout.on_connected(connection.as_connection(), interrupt=False)
    meant, spared = utterance_of("u1", 1), utterance_of("u2", 2)
    playout.queue(meant)
    playout.queue(spared)
    playout.discard(1, UtteranceOutcome.INTERRUPTED)
    await playout.play(meant)
    assert connection.commands == []
    assert meant.outcome.result() is UtteranceOutcome.INTERRUPTED
    assert not spared.over


async def test_a_new_socket_adopts_what_liveavatar_has_and_sends_the_end_again() -> None:
    """The end was sent and lost with the socket: LiveAvatar waited for it."""
    old, new = ScriptedConnection(), ScriptedConnection()
    listener = Listener()
    playout = Playout(listener)
    await playout.on_connected(old.as_connection(), interrupt=False)
    task = await playing(playout, utterance_of("u1", 1))
    await until(lambda: ("speak_end", "u1") in old.commands)
    playout.on_disconnected(old.as_connection())
    await playout.on_connected(new.as_connection(), interrupt=False)
    await until(lambda: new.commands == [("adopt", "u1"), ("speak_end", "u1")])
    playout.on_playback_started("u1")
    playout.on_playback_finished("u1", interrupted=False)
    await asyncio.wait_for(task, 5)
    assert listener.started == ["u1"]


async def test_a_new_socket_interrupts_what_was_discarded_without_one() -> None:
    """LiveAvatar plays on what it has buffered while there is no socket."""
    old, new = ScriptedConnection(), ScriptedConnection()
    listener = Listener()
    playout = Playout(listener)
    await playout.on_connected(old.as_connection(), interrupt=False)
    spoken = utterance_of("u1", 1)
    task = await playing(playout, spoken)
    await until(lambda: ("speak_end", "u1") in old.commands)
    playout.on_disconnected(old.as_connection())
    playout.discard(1, UtteranceOutcome.INTERRUPTED)
    await playout.on_connected(new.as_connection(), interrupt=False)
    assert new.commands == [("adopt", "u1"), ("interrupt", None)]
    assert listener.interrupts == 1
    playout.on_playback_finished("u1", interrupted=True)
    await asyncio.wait_for(task, 5)


async def test_a_failed_send_waits_for_the_next_socket() -> None:
    old, new = ScriptedConnection(), ScriptedConnection()
    playout = Playout(Listener())
    await playout.on_connected(old.as_connection(), interrupt=False)
    old.broken = True
    task = await playing(playout, utterance_of("u1", 1))
    await asyncio.sleep(0.02)
    playout.on_disconnected(old.as_connection())
    await playout.on_connected(new.as_connection(), interrupt=False)
    await until(lambda: new.commands == [("speak", "u1"), ("speak_end", "u1")])
    playout.on_playback_finished("u1", interrupted=False)
    await asyncio.wait_for(task, 5)


async def test_a_retired_playout_begins_nothing_and_a_closed_one_ends_everything() -> None:
    connection, playout = ScriptedConnection(), Playout(Listener())
    await playout.on_connected(connection.as_connection(), interrupt=False)
    await playout.retire(1.0)
    waiting = utterance_of("u1", 1)
    task = await playing(playout, waiting)
    await asyncio.sleep(0.02)
    assert connection.commands == []
    playout.close(UtteranceOutcome.LOST)
    await asyncio.wait_for(task, 5)
    assert waiting.outcome.result() is UtteranceOutcome.LOST
    late = utterance_of("u2", 2)
    playout.queue(late)
    assert late.outcome.result() is UtteranceOutcome.LOST


# --- on the simulator -------------------------------------------------------------------


async def test_an_utterance_is_sent_whole_under_one_id_and_heard(owner: OwnerUnderTest) -> None:
    report = await owner.speak("u1", 1, clip(tone(1.7)))
    assert report.outcome is UtteranceOutcome.COMPLETED
    assert report.sent_ms == report.heard_ms == 1700
    (played,) = owner.ledger_line.utterances
    assert played.sent_ms == 1700
    speaks = [one for one in owner.ledger_line.commands if one.type == "agent.speak"]
    assert {one.event_id for one in speaks} == {"u1"}
    assert owner.commands == ["agent.speak"] * 3 + ["agent.speak_end"]


async def test_two_utterances_take_turns(owner: OwnerUnderTest) -> None:
    first, second = await asyncio.gather(
        owner.speak("u1", 1, clip(tone(0.8))), owner.speak("u2", 2, clip(tone(0.5)))
    )
    assert first.outcome is second.outcome is UtteranceOutcome.COMPLETED
    assert second.started_at is not None
    assert first.ended_at is not None
    spoken = [one.event_id for one in owner.ledger_line.commands if one.type == "agent.speak"]
    assert spoken == ["u1", "u1", "u2", "u2"]


async def test_sending_stays_within_the_lead(owner: OwnerUnderTest) -> None:
    speaking = asyncio.create_task(owner.speak("u1", 1, clip(tone(8))))
    await until(lambda: len(owner.commands) >= 2)
    await asyncio.sleep(1.0)
    sent_ms = sum(one.pcm_ms or 0 for one in owner.ledger_line.commands)
    assert sent_ms <= 1000 + 2000 + 1100  # heard, lead, and a chunk's slack on a busy machine
    await owner.session.interrupt(1)
    report = await speaking
    assert report.outcome is UtteranceOutcome.INTERRUPTED
    assert report.heard_ms <= report.sent_ms


async def test_a_segment_that_was_open_when_the_socket_broke_is_ended(
    owner: OwnerUnderTest,
) -> None:
    """No more of the utterance came, so nothing of it was sent on the new socket: LiveAvatar waited
    for more, and took the next utterance for its rest."""
    owner.simulator.faults.dropped_sockets = 1
    first = begin(owner, "u1", 1.0)
    await owner.reconnected()
    first.finish()
    await owner.outcomes(1)
    begin(owner, "u2", 0.5).finish()
    assert await owner.outcomes(2) == [UtteranceOutcome.COMPLETED] * 2
    assert owner.sent == [("u1", 1000), ("u2", 500)]


async def test_an_utterance_abandoned_after_a_lost_socket_is_interrupted(
    owner: OwnerUnderTest,
) -> None:
    owner.simulator.faults.dropped_sockets = 1
    first = begin(owner, "u1", 1.0)
    await owner.reconnected()
    first.end(UtteranceOutcome.LOST, time.monotonic())
    await owner.outcomes(1)
    begin(owner, "u2", 0.5).finish()
    assert await owner.outcomes(2) == [UtteranceOutcome.LOST, UtteranceOutcome.COMPLETED]
    assert owner.sent == [("u1", 1000), ("u2", 500)]


async def test_an_end_that_was_lost_with_the_socket_is_sent_again(
    owner: OwnerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All chunks were confirmed and speak_end was on its way when the socket broke."""
    first = begin(owner, "u1", 1.0)
    await until(lambda: first.sent_bytes == 48_000)
    connection = owner.session._connection
    assert connection is not None
    await until(lambda: connection.chunks_acked == connection.chunks_sent)
    monkeypatch.setattr(connection, "_write", lambda *_: True)  # the network takes it and loses it
    first.finish()
    await until(lambda: first.end_sent)
    owner.break_socket()
    await until(lambda: len(owner.supervisor.gaps_ms) == 2)
    begin(owner, "u2", 0.5).finish()
    assert await owner.outcomes(2) == [UtteranceOutcome.COMPLETED] * 2
    assert owner.sent == [("u1", 1000), ("u2", 500)]


@contextlib.asynccontextmanager
async def relay_before(owner: OwnerUnderTest) -> AsyncIterator[TcpRelay]:
    """A relay that the session's next socket goes through, and a session that uses it."""
    url = owner.session._ws_url.get_secret_value()
    host, port = urlsplit(url).hostname, urlsplit(url).port
    assert host is not None
    assert port is not None
    async with TcpRelay(host, port).listening() as relay:
        owner.session._ws_url = SecretStr(url.replace(f":{port}", f":{relay.port}", 1))
        owner.break_socket()
        await until(lambda: len(owner.supervisor.gaps_ms) == 2)
        yield relay


async def test_speech_lost_before_its_first_confirmation_is_sent_again(
    owner: OwnerUnderTest,
) -> None:
    """ "Nothing confirmed yet" was taken for "a service that never confirms": the report said
    completed, 1.4 s heard, and LiveAvatar had received nothing."""
    async with relay_before(owner) as relay:
        with relay.hold("", times=1) as held:
            begin(owner, "u1", 1.4).finish()
            await held.reached()
            relay.cut()  # what was held is lost
        assert await owner.outcomes(1) == [UtteranceOutcome.COMPLETED]
        assert owner.sent == [("u1", 1400)]
        assert owner.ledger_line.utterances[0].played_ms == 1400
        await owner.session.close()


@pytest.mark.slow
async def test_an_utterance_in_two_segments_is_over_with_the_second() -> None:
    """A pause ended the first segment; the report of its end came when all of the second was sent,
    and was taken for the utterance's: completed, with two seconds that were never heard."""
    settings = simulator_settings(speak_start_latency_s=1.5)
    async with LiveAvatarSimulator(settings) as simulator, owner_of(simulator) as owner:
        spoken = begin(owner, "u1", 0.5)
        await until(lambda: "agent.speak_end" in owner.commands)
        spoken.write(tone(2.0), time.monotonic())
        spoken.finish()
        assert await owner.outcomes(1) == [UtteranceOutcome.COMPLETED]
        assert owner.supervisor.reports[0].heard_ms == 2500
        assert sum(one.played_ms for one in owner.ledger_line.utterances) == 2500
