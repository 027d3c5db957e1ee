"""Injected faults, as clients observe them over REST and on sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from liveavatar_lite.messages import SpeakEnded
from liveavatar_lite.utterance_tracking import UtteranceEnded, UtteranceStarted
from liveavatar_simulator import Faults, Refusal, SimulatedPhase
from tests.support.simulator import (
    Simulate,
    SimulatorCaller,
    connected,
    next_event,
    speak_frame,
    tone,
)
from tests.support.waiting import until

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@asynccontextmanager
async def bare_socket(started: dict[str, Any]) -> AsyncIterator[ClientConnection]:
    """A connected socket without a client library: no pings, a short close timeout."""
    async with connect(
        started["ws_url"], compression=None, ping_interval=None, close_timeout=0.2
    ) as socket:
        while json.loads(await socket.recv())["state"] != "connected":
            pass
        yield socket


async def frame_types(socket: ClientConnection, *, within_s: float) -> list[str]:
    """The types of all frames within this time."""
    seen: list[str] = []
    try:
        async with asyncio.timeout(within_s):
            while True:
                seen.append(json.loads(await socket.recv())["type"])
    except (TimeoutError, ConnectionClosed):
        return seen


async def send_forever(socket: ClientConnection, frame: str) -> None:
    """Send the same frame repeatedly, as fast as possible."""
    while True:
        await socket.send(frame)


def played_ms(caller: SimulatorCaller, started: dict[str, Any]) -> float:
    """How much audio the session has played."""
    return sum(each.played_ms for each in caller.line(started["session_id"]).utterances)


# --- REST -----------------------------------------------------------------------------------------


async def test_a_lost_token_reply_leaves_a_minted_session_that_bills_nothing(
    caller: SimulatorCaller,
) -> None:
    caller.simulator.faults.lost_token_replies = 1

    with pytest.raises(httpx.RemoteProtocolError):
        await caller.mint()

    ledger = caller.simulator.ledger()
    assert (ledger.minted, ledger.started) == (1, 0)
    assert (await caller.mint()).status_code == 200


async def test_a_lost_stop_reply_leaves_a_session_that_has_ended(caller: SimulatorCaller) -> None:
    started = await caller.started()
    caller.simulator.faults.lost_stop_replies = 1

    with pytest.raises(httpx.RemoteProtocolError):
        await caller.stop(started["session_id"], reason="USER_CLOSED")

    assert caller.simulator.ledger().open == 0
    assert caller.line(started["session_id"]).end_reason == "USER_CLOSED"
    assert (await caller.stop(started["session_id"])).status_code == 200


async def test_the_list_and_the_single_row_can_fail(caller: SimulatorCaller) -> None:
    started = await caller.started()
    caller.simulator.faults = Faults(list_failures=2, list_failure_status=502)

    listed = await caller.http.get("/v1/sessions", params={"type": "active"})
    single = await caller.http.get(f"/v1/sessions/{started['session_id']}")
    again = await caller.http.get("/v1/sessions", params={"type": "active"})

    assert (listed.status_code, single.status_code, again.status_code) == (502, 502, 200)


@pytest.mark.parametrize("calls_per_s", [100, 0])
async def test_an_injected_rate_limit_looks_like_a_real_one_and_has_no_effect(
    simulate: Simulate, calls_per_s: int
) -> None:
    caller = await simulate(calls_per_s=calls_per_s)
    started, minted = await caller.started(), await caller.mint()
    faults = {
        "rate_limited_tokens": 1,
        "rate_limited_starts": 1,
        "rate_limited_stops": 1,
        "retry_after_s": 3,
    }
    await caller.http.post("/simulator/faults", json=faults)

    limited = [
        await caller.mint(),
        await caller.start(minted),
        await caller.stop(started["session_id"]),
    ]

    for reply in limited:
        body = reply.json()
        assert (reply.status_code, body["code"], body["data"]) == (429, 4029, None)
        assert reply.headers["retry-after"] == "3"
        assert reply.headers["x-ratelimit-remaining"] == "0"
        assert reply.headers["x-ratelimit-reset"] == "3"
        assert int(reply.headers["x-ratelimit-limit"]) >= 1
    ledger = caller.simulator.ledger()
    assert (ledger.minted, ledger.started, ledger.open) == (2, 1, 1)
    assert (await caller.mint()).status_code == 200
    assert (await caller.start(minted)).status_code == 201
    assert (await caller.stop(started["session_id"])).status_code == 200


# --- stalled sockets ------------------------------------------------------------------------------


async def test_a_stalled_socket_stays_open_while_billing_and_playback_continue(
    caller: SimulatorCaller,
) -> None:
    caller.simulator.faults = Faults(black_holes=1, drop_after_ms=100)
    started = await caller.started()
    async with bare_socket(started) as socket:
        await socket.send(speak_frame(tone(1.0), "u"))
        await until(lambda: caller.simulator.faults.black_holes == 0)
        frames_before = await frame_types(socket, within_s=0.2)

        await socket.send(json.dumps({"type": "agent.speak_end", "event_id": "u"}))
        pong = asyncio.ensure_future(await socket.ping())
        frames_after = await frame_types(socket, within_s=1.5)

        assert "agent.audio_buffer_appended" in frames_before
        assert (frames_after, pong.done(), socket.close_code) == ([], False, None)
        line = caller.line(started["session_id"])
        assert [command.type for command in line.commands] == ["agent.speak"]
        [utterance] = line.utterances
        assert (utterance.played_ms, line.sockets_open) == (1000, 1)
        assert caller.simulator.ledger().open == 1


async def test_a_newer_socket_takes_over_from_a_stalled_one(caller: SimulatorCaller) -> None:
    caller.simulator.faults = Faults(black_holes=1, drop_after_ms=100)
    started = await caller.started()
    async with bare_socket(started) as older:
        await older.send(speak_frame(tone(2.0), "u"))
        await until(lambda: caller.simulator.faults.black_holes == 0)

        async with await connected(started) as newer:
            newer.adopt("u")
            await newer.speak_end("u")
            over = await next_event(newer, UtteranceEnded)
        await asyncio.wait_for(older.wait_closed(), 5)

    assert (over.utterance_id, over.interrupted) == ("u", False)
    assert older.close_code == 1006
    assert caller.line(started["session_id"]).utterances[0].outcome == "played"


async def test_a_socket_uses_up_one_stall(caller: SimulatorCaller) -> None:
    caller.simulator.faults = Faults(black_holes=2, drop_after_ms=0)
    started = await caller.started()
    async with bare_socket(started) as socket:
        await socket.send(speak_frame(tone(0.5), "u"))
        await until(lambda: played_ms(caller, started) == 500)

    assert caller.simulator.faults.black_holes == 1


async def test_the_end_of_the_session_aborts_a_stalled_socket(caller: SimulatorCaller) -> None:
    caller.simulator.faults = Faults(black_holes=1)
    started = await caller.started()
    async with bare_socket(started) as socket:
        await socket.send(speak_frame(tone(2.0), "u"))
        await until(lambda: caller.simulator.faults.black_holes == 0)

        stopped = await caller.stop(started["session_id"])
        await asyncio.wait_for(socket.wait_closed(), 5)

    assert (stopped.status_code, socket.close_code) == (200, 1006)


async def test_a_stalled_socket_takes_only_what_the_operating_system_buffers(
    caller: SimulatorCaller,
) -> None:
    """The client's sending blocks; the simulator's memory does not grow."""
    caller.simulator.faults = Faults(black_holes_at_once=1)
    started = await caller.started()
    async with bare_socket(started) as socket:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send_forever(socket, speak_frame(tone(10), "u")), 3)
        assert caller.line(started["session_id"]).commands == []
        caller.simulator.drop_sockets()


async def test_a_socket_can_stall_when_it_connects(caller: SimulatorCaller) -> None:
    caller.simulator.faults = Faults(black_holes_at_once=1)
    started = await caller.started()
    async with bare_socket(started) as socket:
        await socket.send(speak_frame(tone(0.5), "u"))
        assert await frame_types(socket, within_s=0.5) == []

        async with await connected(started) as newer:
            await newer.speak(tone(0.1), "v")
            await newer.speak_end("v")
            await next_event(newer, SpeakEnded)

    assert [each.event_id for each in caller.line(started["session_id"]).utterances] == ["v"]


# --- ended by the service -------------------------------------------------------------------------


async def test_a_session_can_be_ended_by_the_service(caller: SimulatorCaller) -> None:
    started = await caller.started()
    async with bare_socket(started) as socket:
        reply = await caller.http.post(
            f"/simulator/sessions/{started['session_id']}/end", json={"reason": "AVATAR_DELETED"}
        )
        frames = await frame_types(socket, within_s=5)

    assert reply.json()["end_reason"] == "AVATAR_DELETED"
    assert (frames, socket.close_code) == (["session.state_updated"], 1000)
    row = (await caller.http.get(f"/v1/sessions/{started['session_id']}")).json()["data"]
    assert row["end_reason"] == "AVATAR_DELETED"
    assert (await caller.stop(started["session_id"])).status_code == 200
    assert caller.line(started["session_id"]).end_reason == "AVATAR_DELETED"


async def test_an_end_by_the_service_is_a_server_error_by_default(
    caller: SimulatorCaller,
) -> None:
    one, other = await caller.started(), await caller.started()

    await caller.http.post(f"/simulator/sessions/{one['session_id']}/end")
    await caller.simulator.end_session(other["session_id"])

    for started in (one, other):
        assert caller.line(started["session_id"]).end_reason == "SERVER_ERROR"


async def test_only_a_session_that_was_started_can_be_ended_or_frozen(
    caller: SimulatorCaller,
) -> None:
    minted = (await caller.mint()).json()["data"]["session_id"]
    ended = (await caller.started())["session_id"]
    await caller.stop(ended)

    statuses = {
        (name, what): (await caller.http.post(f"/simulator/sessions/{each}/{what}")).status_code
        for name, each in {"minted": minted, "ended": ended, "unknown": UNKNOWN}.items()
        for what in ("end", "freeze")
    }

    assert statuses == {
        ("minted", "end"): 400,
        ("minted", "freeze"): 400,
        ("ended", "end"): 200,
        ("ended", "freeze"): 400,
        ("unknown", "end"): 404,
        ("unknown", "freeze"): 404,
    }
    with pytest.raises(Refusal):
        caller.simulator.freeze_session(minted)


async def test_a_frozen_session_sends_no_event_and_stays_open(
    caller: SimulatorCaller,
) -> None:
    started = await caller.started()
    async with bare_socket(started) as socket:
        await socket.send(speak_frame(tone(3.0), "u"))
        await until(lambda: played_ms(caller, started) > 0)
        await frame_types(socket, within_s=0.1)

        reply = await caller.http.post(f"/simulator/sessions/{started['session_id']}/freeze")
        await socket.send(speak_frame(tone(0.5), "u"))
        await socket.send(json.dumps({"type": "agent.interrupt", "event_id": "i"}))
        after = await frame_types(socket, within_s=0.7)

        assert (after, socket.close_code) == ([], None)
        await asyncio.wait_for(await socket.ping(), 5)  # the socket itself still answers
        line = caller.line(started["session_id"])
        assert [each.outcome for each in line.utterances] == ["cut"]
        assert [each.type for each in line.commands][-1] == "agent.interrupt"

    assert reply.json()["end_reason"] == "MAX_DURATION_REACHED"
    assert caller.simulator.ledger().open == 0
    assert caller.simulator.sessions[started["session_id"]].phase is SimulatedPhase.FROZEN


async def test_all_sockets_can_be_cut(caller: SimulatorCaller) -> None:
    first, second, _ = [await caller.started() for _ in range(3)]
    async with bare_socket(first) as one, bare_socket(second) as other:
        reply = await caller.http.post("/simulator/sockets/drop")
        for socket in (one, other):
            await asyncio.wait_for(socket.wait_closed(), 5)

    assert reply.json() == {"dropped": 2}
    assert (one.close_code, other.close_code) == (1006, 1006)
    assert caller.simulator.ledger().open == 3
    async with await connected(first) as again:
        await again.speak(tone(0.5), "u")
        await next_event(again, UtteranceStarted)
