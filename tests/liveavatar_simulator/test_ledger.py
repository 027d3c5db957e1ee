"""The ledger over HTTP: sockets, commands, silences, totals."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from liveavatar_lite.utterance_tracking import UtteranceEnded
from liveavatar_simulator import BillingLedger, SessionLine
from tests.support.simulator import Simulate, SimulatorCaller, connected, next_event, sounds, tone
from tests.support.waiting import until


async def ledger_of(caller: SimulatorCaller) -> BillingLedger:
    """The ledger over HTTP."""
    reply = await caller.http.get("/simulator/ledger")
    return TypeAdapter(BillingLedger).validate_json(reply.content)


async def line_of(caller: SimulatorCaller, started: dict[str, Any]) -> SessionLine:
    """One session of the ledger over HTTP."""
    sessions = (await ledger_of(caller)).sessions
    return next(each for each in sessions if each.session_id == started["session_id"])


async def test_each_command_has_the_number_of_its_socket(caller: SimulatorCaller) -> None:
    started = await caller.started()
    async with await connected(started) as first:
        await first.speak(tone(1.0), "u")
        async with await connected(started) as second:
            second.adopt("u")
            await second.speak(tone(0.5), "u")
            await second.speak_end("u")
            await next_event(second, UtteranceEnded)
    await until(lambda: caller.line(started["session_id"]).sockets_open == 0)

    line = await line_of(caller, started)

    assert [(each.type, each.socket) for each in line.commands] == [
        ("agent.speak", 1),
        ("agent.speak", 2),
        ("agent.speak_end", 2),
    ]
    one, two = line.sockets
    assert (one.number, two.number) == (1, 2)
    assert one.closed_at is not None
    assert two.closed_at is not None
    assert one.opened_at < two.opened_at < two.closed_at
    assert one.closed_at < two.closed_at


async def test_an_open_socket_has_no_closing_time(caller: SimulatorCaller) -> None:
    started = await caller.started()
    async with await connected(started):
        [socket] = (await line_of(caller, started)).sockets

    assert (socket.number, socket.closed_at) == (1, None)


async def test_an_utterances_times_and_silences_match_the_recording(simulate: Simulate) -> None:
    caller = await simulate(record_heard_s=60, speak_start_latency_s=0.2)
    started = await caller.started()
    async with await connected(started) as connection:
        await connection.speak(tone(0.5), "u")
        await asyncio.sleep(1.0)
        [open_] = (await line_of(caller, started)).utterances
        await connection.speak(tone(0.5), "u")
        await connection.speak_end("u")
        await next_event(connection, UtteranceEnded)

    [line] = (await line_of(caller, started)).utterances
    recording = caller.simulator.heard(started["session_id"])
    first, second = (
        tuple(recording.began_at + timedelta(seconds=at_s) for at_s in sound)
        for sound in sounds(recording)
    )

    assert open_.began_at == line.began_at
    assert (open_.ended_at, open_.silences) == (None, [])
    assert line.began_at is not None
    assert line.ended_at is not None
    assert abs(line.began_at - first[0]) <= timedelta(milliseconds=11)
    assert abs(line.ended_at - second[1]) <= timedelta(milliseconds=11)
    [silence] = line.silences
    assert silence.at_ms == pytest.approx(500, abs=11)
    rest_ms = (second[0] - first[1]).total_seconds() * 1000
    assert silence.duration_ms == pytest.approx(rest_ms, abs=11)


async def test_an_utterance_that_was_never_played_has_no_times(caller: SimulatorCaller) -> None:
    started = await caller.started()
    async with await connected(started) as connection:
        await connection.speak(tone(0.1), "u")  # too little to begin
        await until(lambda: bool(caller.line(started["session_id"]).utterances))
        await caller.stop(started["session_id"])

    [line] = (await line_of(caller, started)).utterances
    assert (line.outcome, line.began_at, line.ended_at, line.silences) == ("cut", None, None, [])


async def test_peak_open_is_the_largest_number_of_billed_sessions(caller: SimulatorCaller) -> None:
    before = await ledger_of(caller)
    first, second = await caller.started(), await caller.started()
    await caller.stop(first["session_id"])
    third = await caller.started()
    for each in (second, third):
        await caller.stop(each["session_id"])

    ledger = await ledger_of(caller)

    assert before.peak_open == 0
    assert (ledger.started, ledger.open, ledger.peak_open) == (3, 0, 2)


async def test_a_frozen_session_is_not_billed_and_does_not_count(caller: SimulatorCaller) -> None:
    first = await caller.started()
    caller.simulator.freeze_session(first["session_id"])
    await caller.started()

    ledger = await ledger_of(caller)

    assert (ledger.open, ledger.peak_open) == (1, 1)
