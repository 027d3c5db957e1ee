"""Live speech on the whole system: what went wrong once, told one by one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest_asyncio
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from avatar_sessions import AvatarSessions, EndReason
from avatar_sessions.contract import names
from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.seal import Seal
from deploy.local.stack import TemporalServer
from tests.system.sessions.conftest import Platform, own_namespace, running_workers
from tests.system.sessions.test_ingress import close_code, connected, tone


@pytest_asyncio.fixture
async def alone(temporal: TemporalServer, platform: Platform, seal_key: SecretStr) -> Platform:
    """A namespace without workers: the test brings its own."""
    client = await own_namespace(temporal)
    return replace(platform, client=client, sessions=AvatarSessions(client, Seal([seal_key])))


async def drink(connection: ClientConnection) -> None:
    """Read, and mind nothing."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.recv()


async def test_a_conversation_is_not_idle_because_its_owner_is_busy(platform: Platform) -> None:
    """The idle deadline fell while the owner got its socket back: "not to be known" was read as
    "nobody speaks", and a session in mid-sentence was ended."""
    session = await platform.start(idle_timeout_s=3)
    async with connected(platform, session) as connection:
        reading = asyncio.create_task(drink(connection))
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


async def test_a_signal_with_an_absurd_gap_is_ignored(platform: Platform) -> None:
    """Whoever could signal and knew the owner wedged the workflow for good, and the session went on
    billing: the number did not fit into a time span."""
    session = await platform.start()
    await session.attach()
    handle = platform.client.get_workflow_handle(session.workflow_id)
    ready: dict[str, Any] = {}
    for event in (await handle.fetch_history()).events:
        signal = event.workflow_execution_signaled_event_attributes
        if signal.signal_name == names.SIGNAL_OWNER_READY:
            ready = json.loads(signal.input.payloads[0].data)
    await handle.signal(names.SIGNAL_OWNER_READY, {**ready, "gap_ms": 10**18})
    line = {"id": "x", "outcome": "completed", "source": "live", "heard_ms": 10**400}
    await handle.signal(names.SIGNAL_UTTERANCES, {"epoch": [1, 1], "utterances": [line]})
    await handle.signal(names.SIGNAL_OWNER_RECOVERING, {"epoch": ready["epoch"]})
    report = await session.end(timeout_s=20)
    assert report.end_reason is EndReason.REQUESTED
    assert report.ignored_count == 2


async def test_a_plain_speakers_utterance_stands_in_the_report_after_a_drain(
    alone: Platform,
) -> None:
    """It cannot come back to go on with it; its line was dropped as if it could."""
    async with contextlib.AsyncExitStack() as first:
        await first.enter_async_context(running_workers(alone.client, alone.settings))
        session = await alone.start(sandbox=False)
        async with connected(alone, session, extended=False) as connection:
            await connection.send(tone(4))
            await asyncio.sleep(1.5)
            leaving = asyncio.create_task(first.aclose())
            assert await close_code(connection) == 4001
            await leaving
    async with running_workers(alone.client, alone.settings):
        report = await session.end()
    (line,) = report.utterances
    assert line.outcome is UtteranceOutcome.LOST
    assert 0 < line.heard_ms <= line.sent_ms <= 4000
    assert report.totals.by_outcome == {UtteranceOutcome.LOST: 1}


async def test_dead_speakers_do_not_keep_a_worker_from_leaving(alone: Platform) -> None:
    """Two connections flooded one utterance and died: a handler waited for ever, and the drain with
    it."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(running_workers(alone.client, alone.settings))
        session = await alone.start(sandbox=False)
        for _ in range(2):
            async with connected(alone, session) as connection:
                await connection.send(LiveBegin(utterance_id="u1").model_dump_json())
                for _ in range(4):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(connection.send(bytes(480_000)), 1)
                connection.transport.abort()
        report = await session.end()
        await asyncio.wait_for(stack.aclose(), 12)
    assert [one.id for one in report.utterances] == ["u1"]
