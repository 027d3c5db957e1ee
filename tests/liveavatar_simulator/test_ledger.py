"""The ledger, as one who looks for leaks and silences reads it over HTTP."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from liveavatar_lite.utterance_book import UtteranceEnded
from liveavatar_simulator import BillingLedger, SessionLine
from tests.liveavatar_simulator.conftest import Caller, Simulate, connected, next_event, tone, until
from tests.liveavatar_simulator.media.test_recording import sounds


async def ledger_of(caller: Caller) -> BillingLedger:
    """As it comes over HTTP."""
    reply = await caller.http.get("/simulator/ledger")
    return TypeAdapter(BillingLedger).validate_json(reply.content)


async def line_of(caller: Caller, started: dict[str, Any]) -> SessionLine:
    """One session of it."""
    sessions = (await ledger_of(caller)).sessions
    return next(each for each in sessions if each.session_id == started["session_id"])


async def test_each_command_names_the_socket_that_brought_it(caller: Caller) -> None:
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


async def test_a_socket_that_is_open_has_no_end(caller: Caller) -> None:
    started = await caller.started()
    async with await connected(started):
        [socket] = (await line_of(caller, started)).sockets

    assert (socket.number, socket.closed_at) == (1, None)


async def test_the_times_of_an_utterance_are_those_of_its_sound(simulate: Simulate) -> None:
    """What the ledger says of a silence is what the record holds."""
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
    heard = caller.simulator.heard(started["session_id"])
    first, second = (
        tuple(heard.began_at + timedelta(seconds=at_s) for at_s in sound) for sound in sounds(heard)
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


async def test_what_was_never_heard_has_no_times(caller: Caller) -> None:
    started = await caller.started()
    async with await connected(started) as connection:
        await connection.speak(tone(0.1), "u")  # too little to begin
        await until(lambda: bool(caller.line(started["session_id"]).utterances))
        await caller.stop(started["session_id"])

    [line] = (await line_of(caller, started)).utterances
    assert (line.outcome, line.began_at, line.ended_at, line.silences) == ("cut", None, None, [])


async def test_the_peak_is_the_most_that_was_ever_billed_at_once(caller: Caller) -> None:
    before = await ledger_of(caller)
    first, second = await caller.started(), await caller.started()
    await caller.stop(first["session_id"])
    third = await caller.started()
    for each in (second, third):
        await caller.stop(each["session_id"])

    ledger = await ledger_of(caller)

    assert before.peak_open == 0
    assert (ledger.started, ledger.open, ledger.peak_open) == (3, 0, 2)


async def test_a_frozen_session_is_not_billed_and_does_not_count(caller: Caller) -> None:
    first = await caller.started()
    caller.simulator.freeze_session(first["session_id"])
    await caller.started()

    ledger = await ledger_of(caller)

    assert (ledger.open, ledger.peak_open) == (1, 1)
