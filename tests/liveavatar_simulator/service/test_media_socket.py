"""The media WebSocket, with `LiteConnection` and bare sockets; session limits and credits."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from liveavatar_lite.connection import LiteConnection
from liveavatar_lite.errors import ConnectionRefused, NeverConnected
from liveavatar_lite.messages import AgentStateUpdated, ErrorReported, SpeakEnded, SpeakStarted
from liveavatar_lite.protocol import PoseChanged
from liveavatar_lite.utterance_tracking import UtteranceEnded, UtteranceStarted
from liveavatar_simulator import AtLimit, Correlation, Faults, SpeechSignals
from tests.support.simulator import (
    Simulate,
    SimulatorCaller,
    connected,
    events_until,
    next_event,
    tone,
)
from tests.support.waiting import until


async def frames_of(socket: ClientConnection, *, within_s: float = 5.0) -> list[dict[str, Any]]:
    """All frames until the socket is closed."""
    frames: list[dict[str, Any]] = []
    async with asyncio.timeout(within_s):
        try:
            while True:
                frames.append(json.loads(await socket.recv()))
        except ConnectionClosed:
            return frames


async def frame_of(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """The next frame of this type."""
    async with asyncio.timeout(5):
        while True:
            frame: dict[str, Any] = json.loads(await socket.recv())
            if frame["type"] == kind:
                return frame


# --- speech ---------------------------------------------------------------------------------------


async def test_an_utterance_is_acknowledged_begins_and_ends(caller: SimulatorCaller) -> None:
    started = await caller.started()
    async with await connected(started) as connection:
        await connection.speak(tone(0.4), "u")
        await connection.speak(tone(0.3), "u")
        await connection.speak_end("u")

        seen = await events_until(connection, lambda event: isinstance(event, UtteranceEnded))

    meant = [event for event in seen if isinstance(event, UtteranceStarted | UtteranceEnded)]
    assert [event.utterance_id for event in meant] == ["u", "u"]
    line = caller.line(started["session_id"])
    [utterance] = line.utterances
    assert (utterance.sent_ms, utterance.played_ms, utterance.outcome) == (700, 700, "played")
    assert [(command.type, command.pcm_ms) for command in line.commands] == [
        ("agent.speak", 400),
        ("agent.speak", 300),
        ("agent.speak_end", None),
    ]


@pytest.mark.parametrize("correlation", list(Correlation))
@pytest.mark.parametrize("signals", list(SpeechSignals))
async def test_every_dialect_has_the_same_meaning(
    simulate: Simulate, correlation: Correlation, signals: SpeechSignals
) -> None:
    caller = await simulate(correlation=correlation, speech_signals=signals)
    async with await connected(await caller.started()) as connection:
        await connection.speak(tone(0.2), "u")
        await connection.speak_end("u")

        seen = await events_until(connection, lambda event: isinstance(event, UtteranceEnded))

    over = seen[-1]
    assert isinstance(over, UtteranceEnded)
    assert (over.utterance_id, over.interrupted) == ("u", False)
    by_speech_events = any(isinstance(event, SpeakStarted | SpeakEnded) for event in seen)
    assert by_speech_events == (signals is not SpeechSignals.POSES)


async def test_an_interrupt_ends_the_utterance_and_the_next_one_plays(
    caller: SimulatorCaller,
) -> None:
    started = await caller.started()
    async with await connected(started) as connection:
        await connection.speak(tone(5), "long")
        await next_event(connection, UtteranceStarted)

        await connection.interrupt("cut")
        over = await next_event(connection, UtteranceEnded)
        await connection.speak(tone(0.1), "next")
        await connection.speak_end("next")
        after = await next_event(connection, UtteranceEnded)

    assert (over.utterance_id, over.interrupted) == ("long", True)
    assert (after.utterance_id, after.interrupted) == ("next", False)
    cut, heard = caller.line(started["session_id"]).utterances
    assert (cut.outcome, cut.sent_ms) == ("interrupted", 5000)
    assert cut.played_ms < 3000
    assert heard.outcome == "played"


async def test_pose_changes_are_reported(caller: SimulatorCaller) -> None:
    async with await connected(await caller.started()) as connection:
        await connection.start_listening()
        listening = await next_event(connection, AgentStateUpdated)
        await connection.stop_listening()
        idle = await next_event(connection, AgentStateUpdated)

    assert (listening.previous_state, listening.new_state) == ("idle", "listening")
    assert (idle.previous_state, idle.new_state) == ("listening", "idle")


async def test_starvation_is_reported(simulate: Simulate) -> None:
    caller = await simulate(starvation_s=0.1)
    async with await connected(await caller.started()) as connection:
        await connection.speak(tone(0.4), "u")

        error = await next_event(connection, ErrorReported)
        pose = await next_event(connection, PoseChanged)

    assert (error.type, error.utterance_id) == ("video_starvation", "u")
    assert pose.state == "idle"


# --- the socket -----------------------------------------------------------------------------------


async def test_commands_before_connected_are_dropped_silently(simulate: Simulate) -> None:
    caller = await simulate(connect_delay_s=0.3)
    started = await caller.started()
    async with connect(started["ws_url"], compression=None) as socket:
        await socket.send(json.dumps({"type": "agent.interrupt", "event_id": "early"}))
        states = [json.loads(await socket.recv())["state"] for _ in range(2)]
        await socket.send(json.dumps({"type": "agent.interrupt", "event_id": "late"}))
        cleared = await frame_of(socket, "agent.audio_buffer_cleared")

    assert states == ["new", "connected"]
    assert cleared["source_event_id"] == "late"
    line = caller.line(started["session_id"])
    assert line.commands_ignored == 1
    assert [command.event_id for command in line.commands] == ["late"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ("speak!", "message is not valid JSON"),
        (json.dumps({"type": "agent.dance", "event_id": "x"}), "unknown message type"),
        (json.dumps({"type": "agent.speak", "audio": "%", "event_id": "x"}), "invalid base64"),
        (json.dumps({"type": "agent.speak", "event_id": "x"}), "invalid base64 audio data"),
    ],
)
async def test_an_invalid_command_is_answered_and_the_socket_stays_open(
    caller: SimulatorCaller, frame: str, message: str
) -> None:
    async with connect((await caller.started())["ws_url"], compression=None) as socket:
        while json.loads(await socket.recv())["state"] != "connected":
            pass
        await socket.send(frame)
        error = await frame_of(socket, "error")
        await socket.send(json.dumps({"type": "agent.interrupt"}))
        await frame_of(socket, "agent.audio_buffer_cleared")

    assert error["error"]["type"] == "invalid_request_error"
    assert message in error["error"]["message"]


async def test_a_frame_over_the_limit_is_answered_and_closes_the_socket_with_1009(
    caller: SimulatorCaller,
) -> None:
    async with connect((await caller.started())["ws_url"], compression=None) as socket:
        while json.loads(await socket.recv())["state"] != "connected":
            pass
        await socket.send(json.dumps({"type": "agent.speak", "audio": "A" * 1_000_000}))
        error = await frame_of(socket, "error")
        await frames_of(socket)

    assert error["error"]["type"] == "invalid_request_error"
    assert socket.close_code == 1009


async def test_the_socket_opens_with_the_whole_url_and_while_the_session_runs(
    caller: SimulatorCaller,
) -> None:
    started = await caller.started()
    url = started["ws_url"]

    with pytest.raises(ConnectionRefused) as guessed:
        await LiteConnection.open(SecretStr(url.split("?")[0] + "?key=guess"))
    await caller.stop(started["session_id"])
    with pytest.raises(ConnectionRefused) as ended:
        await LiteConnection.open(SecretStr(url))

    assert (guessed.value.status, ended.value.status) == (403, 404)


async def test_a_newer_socket_replaces_the_older_one_and_playback_continues(
    caller: SimulatorCaller,
) -> None:
    started = await caller.started()
    async with await connected(started) as older:
        await older.speak(tone(1.0), "u")
        await older.speak_end("u")
        await next_event(older, UtteranceStarted)

        async with await connected(started) as newer:
            await next_event(newer, SpeakEnded)

        await until(lambda: older.close_code is not None)
        assert older.close_code == 1000

    [utterance] = caller.line(started["session_id"]).utterances
    assert utterance.outcome == "played"
    assert caller.line(started["session_id"]).sockets_total == 2


async def test_a_stop_sends_disconnected_and_closes_with_1000(caller: SimulatorCaller) -> None:
    started = await caller.started()
    async with connect(started["ws_url"], compression=None) as socket:
        await frame_of(socket, "session.state_updated")
        await caller.stop(started["session_id"])
        frames = await frames_of(socket)

    assert frames[-1] == {"type": "session.state_updated", "state": "disconnected"}
    assert socket.close_code == 1000


async def test_the_fault_never_connected_applies_to_one_socket(caller: SimulatorCaller) -> None:
    caller.simulator.faults = Faults(never_connected=1)
    started = await caller.started()

    with pytest.raises(NeverConnected):
        await LiteConnection.open(SecretStr(started["ws_url"]), connected_timeout_s=0.3)
    async with await connected(started):
        pass  # the next one connects


async def test_the_fault_dropped_sockets_cuts_a_socket_during_an_utterance(
    caller: SimulatorCaller,
) -> None:
    caller.simulator.faults = Faults(dropped_sockets=1, drop_after_ms=100)
    started = await caller.started()
    async with await connected(started) as connection:
        await connection.speak(tone(1), "u")
        async with asyncio.timeout(5):
            async for _ in connection.events():
                pass

    assert connection.close_code == 1006
    assert caller.simulator.ledger().open == 1


# --- limits and credits ---------------------------------------------------------------------------


async def test_the_sandbox_closes_at_its_limit_and_costs_nothing(simulate: Simulate) -> None:
    caller = await simulate(duration_scale=0.005)
    started = await caller.started(is_sandbox=True)
    async with connect(started["ws_url"], compression=None) as socket:
        await frames_of(socket)

    assert (socket.close_code, socket.close_reason) == (1000, "")
    line = caller.line(started["session_id"])
    assert line.end_reason == "MAX_DURATION_REACHED"
    assert (line.billed_s, line.credits_consumed) == (0.0, Decimal(0))
    assert (await caller.stop(started["session_id"])).status_code == 200


async def test_a_paid_session_freezes_at_its_limit_without_an_event(simulate: Simulate) -> None:
    caller = await simulate(duration_scale=0.01)
    started = await caller.started(max_session_duration=30)
    async with connect(started["ws_url"], compression=None) as socket:
        await until(lambda: caller.simulator.ledger().open == 0)
        await socket.send(json.dumps({"type": "agent.interrupt"}))
        stopped = await caller.stop(started["session_id"])
        frames = await frames_of(socket)

    assert [frame["type"] for frame in frames] == ["session.state_updated"] * 3
    assert stopped.status_code == 200
    assert caller.line(started["session_id"]).end_reason == "MAX_DURATION_REACHED"


async def test_a_paid_session_closes_at_its_limit_if_set(simulate: Simulate) -> None:
    caller = await simulate(duration_scale=0.01, at_limit=AtLimit.CLOSE)
    started = await caller.started(max_session_duration=30)
    async with connect(started["ws_url"], compression=None) as socket:
        await frames_of(socket)

    assert socket.close_code == 1000


async def test_an_idle_session_ends_and_one_kept_alive_does_not(simulate: Simulate) -> None:
    caller = await simulate(idle_timeout_s=0.6)
    idle, kept = await caller.started(), await caller.started()
    async with await connected(idle), await connected(kept) as connection:
        lines = (idle["session_id"], kept["session_id"])
        while caller.line(lines[0]).ended_at is None:
            await connection.keep_alive()
            await asyncio.sleep(0.05)
        assert caller.line(lines[0]).end_reason == "IDLE_TIMEOUT"
        assert caller.line(lines[1]).ended_at is None


async def test_a_session_without_a_socket_is_reaped(simulate: Simulate) -> None:
    caller = await simulate(zombie_timeout_s=0.3)
    started = await caller.started()
    async with await connected(started):
        pass

    await until(lambda: caller.simulator.ledger().open == 0)

    assert caller.line(started["session_id"]).end_reason == "ZOMBIE_SESSION_REAP"


async def test_a_session_ends_when_the_credits_run_out(simulate: Simulate) -> None:
    caller = await simulate(credits=1.0, credit_period_s=0.2)
    started = await caller.started()
    async with await connected(started):
        await until(lambda: caller.simulator.ledger().open == 0)

    assert caller.line(started["session_id"]).end_reason == "NO_CREDITS"
    assert (await caller.start(await caller.mint())).status_code == 403
