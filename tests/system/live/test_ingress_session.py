"""Live speech and the session around it: idle timeout, drain, end, events in history."""

from __future__ import annotations

import asyncio
import contextlib
import json

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from avatar_sessions import EndReason
from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.states import UtteranceOutcome
from tests.support.platforms.in_process import Platform, running_workers
from tests.support.speech.ingress_client import (
    close_code,
    connected,
    receive_message,
    until_counted,
    utterance_line,
)
from tests.support.speech.pcm import tone


async def discard_messages(connection: ClientConnection) -> None:
    """Read until the connection is closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.recv()


async def test_a_conversation_is_not_idle_because_its_owner_is_busy(platform: Platform) -> None:
    """The idle deadline fell while the owner got its socket back: "not to be known" was read as
    "no speech", and a session in mid-sentence was ended."""
    session = await platform.start(idle_timeout_s=3)
    async with connected(platform, session) as connection:
        reading = asyncio.create_task(discard_messages(connection))
        platform.simulator.faults.never_connected = 1
        platform.simulator.faults.dropped_sockets = 1
        try:
            await connection.send(LiveBegin(utterance_id="u1").model_dump_json())
            for _ in range(80):
                await connection.send(tone(0.1))
                await asyncio.sleep(0.1)
        finally:
            platform.simulator.faults.never_connected = 0
            platform.simulator.faults.dropped_sockets = 0
        assert (await session.status()).end_reason is None
        report = await session.end()
        await reading
    assert report.end_reason is EndReason.REQUESTED


async def test_a_plain_speakers_utterance_is_reported_after_a_drain(
    workerless: Platform,
) -> None:
    """A plain speaker cannot resume its utterance; its report was dropped as if it could."""
    async with contextlib.AsyncExitStack() as first:
        await first.enter_async_context(running_workers(workerless.client, workerless.settings))
        session = await workerless.start(sandbox=False)
        async with connected(workerless, session, extended=False) as connection:
            await connection.send(tone(4))
            await asyncio.sleep(1.5)
            leaving = asyncio.create_task(first.aclose())
            assert await close_code(connection) == 4001
            await leaving
    async with running_workers(workerless.client, workerless.settings):
        report = await session.end()
    (line,) = report.utterances
    assert line.outcome is UtteranceOutcome.LOST
    assert 0 < line.heard_ms <= line.sent_ms <= 4000
    assert report.totals.by_outcome == {UtteranceOutcome.LOST: 1}


async def test_dead_speakers_do_not_keep_a_worker_from_leaving(workerless: Platform) -> None:
    """Two connections flooded one utterance and broke: a handler waited for ever, and so did the
    drain."""
    async with contextlib.AsyncExitStack() as crew:
        await crew.enter_async_context(running_workers(workerless.client, workerless.settings))
        session = await workerless.start(sandbox=False)
        for _ in range(2):
            async with connected(workerless, session) as connection:
                await connection.send(LiveBegin(utterance_id="u1").model_dump_json())
                for _ in range(4):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(connection.send(bytes(480_000)), 1)
                connection.transport.abort()
        report = await session.end()
        await asyncio.wait_for(crew.aclose(), 12)
    assert [one.id for one in report.utterances] == ["u1"]


async def test_the_end_of_a_session_closes_its_speakers_connections(platform: Platform) -> None:
    session = await platform.start()
    async with connected(platform, session) as connection:
        await connection.send(LiveBegin(utterance_id="u1").model_dump_json())
        await connection.send(tone(3))
        await receive_message(connection, "agent.speak_started")
        report = await session.end()
        await receive_message(connection, "session.state_updated", state="disconnected")
        assert await close_code(connection) == 1000
    (line,) = report.utterances
    assert (line.id, line.outcome) == ("u1", UtteranceOutcome.CANCELLED)
    assert 0 < line.heard_ms <= line.sent_ms <= 3000


async def test_live_speech_keeps_a_session_from_its_idle_timeout(platform: Platform) -> None:
    """It does not pass through the workflow, which would take the session for idle."""
    session = await platform.start(idle_timeout_s=2)
    async with connected(platform, session) as connection:
        for number in range(4):
            await connection.send(LiveBegin(utterance_id=f"u{number}").model_dump_json())
            await connection.send(tone(1.2))
            await connection.send(json.dumps({"type": "agent.speak_end", "event_id": f"u{number}"}))
            await utterance_line(connection, f"u{number}")
        assert (await session.status()).end_reason is None
        report = await session.report(timeout_s=20)
    assert report.end_reason is EndReason.IDLE_TIMEOUT
    assert report.totals.by_outcome == {UtteranceOutcome.COMPLETED: 4}


async def test_a_live_utterance_costs_few_events_of_history(platform: Platform) -> None:
    session = await platform.start()
    handle = platform.client.get_workflow_handle(session.workflow_id)
    async with connected(platform, session) as connection:
        before = len((await handle.fetch_history()).events)
        for number in range(5):
            await connection.send(LiveBegin(utterance_id=f"u{number}").model_dump_json())
            await connection.send(tone(0.3))
            await connection.send(json.dumps({"type": "agent.speak_end", "event_id": f"u{number}"}))
        await utterance_line(connection, "u4")
        await until_counted(session, 5)
        after = len((await handle.fetch_history()).events)
    assert after - before <= 5 * 5
    await session.end()
