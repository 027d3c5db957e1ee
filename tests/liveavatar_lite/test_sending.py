"""Commands are sent whole and in order, with back-pressure.

The connection writes to the transport itself, so each test runs on both event loops that workers
use, with TLS and without.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from liveavatar_lite import (
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    ConnectionDead,
    ConnectionLost,
    LiteConnection,
    SessionKeepAlive,
)
from tests.support.speech.lite_server import Media, media_server, self_signed
from tests.support.waiting import until

SECOND = 48_000
LONG_S = 60.0
MORE_THAN_THE_KERNEL_TAKES = 1000
"""Seconds of speech; the two sockets of a connection buffer about 10 MB."""

Run = Callable[[Coroutine[Any, Any, None]], None]
Contexts = tuple[tls.SSLContext, tls.SSLContext]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario on this event loop."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def run_it(scenario: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(scenario)

    return run_it


@pytest.fixture(params=["ws", "wss"])
def contexts(request: pytest.FixtureRequest, tmp_path: Path) -> Contexts | None:
    """TLS for the server and for the client, or none."""
    return self_signed(tmp_path) if request.param == "wss" else None


class Valve:
    """A media server whose reading can be paused."""

    def __init__(self) -> None:
        self.side: Media | None = None

    def close(self) -> None:
        assert self.side is not None
        self.side.socket.transport.pause_reading()

    def open(self) -> None:
        assert self.side is not None
        self.side.socket.transport.resume_reading()

    def vanish(self) -> None:
        assert self.side is not None
        self.side.socket.transport.abort()

    @property
    def commands(self) -> list[Any]:
        assert self.side is not None
        return self.side.commands

    async def script(self, media: Media) -> None:
        self.side = media
        await media.connect()
        await media.serve(answer=False)


@asynccontextmanager
async def connected(contexts: Contexts | None) -> AsyncIterator[tuple[LiteConnection, Valve]]:
    valve = Valve()
    server_tls, client_tls = contexts or (None, None)
    async with media_server(valve.script, security=server_tls) as ws_url:
        connection = await LiteConnection.open(ws_url, ssl=client_tls, dead_after_s=LONG_S)
        try:
            yield connection, valve
        finally:
            valve.vanish()
            await connection.close()


def chunk(number: int) -> bytes:
    return number.to_bytes(2, "little") * (SECOND // 2)


async def speak_until_blocked(connection: LiteConnection) -> asyncio.Task[None]:
    """Start speaking; returns when the network takes no more and the speaker waits.

    Without back-pressure the task would be done.
    """
    sent = 0

    async def speak() -> None:
        nonlocal sent
        for number in range(MORE_THAN_THE_KERNEL_TAKES):
            await connection.speak(chunk(number), "u")
            sent += 1

    speaking = asyncio.create_task(speak(), name="speaking")
    before = -1
    while sent > before:
        before = sent
        await asyncio.sleep(0.1)
    return speaking


def test_commands_of_many_tasks_arrive_whole_and_in_order_after_a_stall(
    run: Run, contexts: Contexts | None
) -> None:
    async def scenario() -> None:
        async with connected(contexts) as (connection, valve):
            valve.close()
            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(connection.speak(chunk(number), "u"))
                    if number % 10 == 0:
                        group.create_task(connection.keep_alive())
                group.create_task(connection.speak_end("u"))
                await asyncio.sleep(0)  # all calls were made, none was read
                valve.open()
            await until(lambda: len(valve.commands) == 111)

            spoken = [each for each in valve.commands if not isinstance(each, SessionKeepAlive)]
            assert spoken[:-1] == [AgentSpeak(chunk(number), "u") for number in range(100)]
            assert isinstance(spoken[-1], AgentSpeakEnd)
            assert isinstance(valve.commands[1], SessionKeepAlive)

    run(scenario())


def test_a_speaker_waits_for_a_stalled_network_and_continues_with_it(
    run: Run, contexts: Contexts | None
) -> None:
    async def scenario() -> None:
        async with connected(contexts) as (connection, valve):
            valve.close()
            speaking = await speak_until_blocked(connection)
            assert not speaking.done()

            valve.open()
            heard = len(valve.commands)
            await until(lambda: len(valve.commands) == MORE_THAN_THE_KERNEL_TAKES)

            assert heard < MORE_THAN_THE_KERNEL_TAKES
            assert [each.audio[:2] for each in valve.commands] == [
                chunk(number)[:2] for number in range(MORE_THAN_THE_KERNEL_TAKES)
            ]

    run(scenario())


def test_the_memory_for_a_stalled_network_is_bounded(run: Run, contexts: Contexts | None) -> None:
    async def scenario() -> None:
        async with connected(contexts) as (connection, valve):
            valve.close()
            speaking = await speak_until_blocked(connection)

            waiting_bytes = connection._socket.transport.get_write_buffer_size()
            speaking.cancel()
            await asyncio.wait({speaking})

            assert waiting_bytes < 3 * SECOND

    run(scenario())


def test_a_command_that_times_out_ends_the_connection(
    run: Run, contexts: Contexts | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liveavatar_lite.connection.SEND_TIMEOUT_S", 0.5)

    async def scenario() -> None:
        async with connected(contexts) as (connection, valve):
            valve.close()
            speaking = await speak_until_blocked(connection)

            with pytest.raises(ConnectionDead) as failure:
                await asyncio.wait_for(speaking, 10)

            assert failure.value.silent_s == 0.5
            assert connection.close_code == 1006
            with pytest.raises(ConnectionDead):
                await connection.interrupt()

    run(scenario())


def test_a_waiting_command_raises_when_the_connection_ends(
    run: Run, contexts: Contexts | None
) -> None:
    async def scenario() -> None:
        async with connected(contexts) as (connection, valve):
            valve.close()
            speaking = await speak_until_blocked(connection)

            valve.vanish()

            with pytest.raises(ConnectionLost) as failure:
                await asyncio.wait_for(speaking, 10)
            assert failure.value.code == 1006

    run(scenario())


def test_a_short_command_is_sent_without_delay(run: Run, contexts: Contexts | None) -> None:
    async def scenario() -> None:
        async with connected(contexts) as (connection, valve):
            await connection.interrupt("cut")

            await until(lambda: valve.commands == [AgentInterrupt("cut")], within_s=5)

    run(scenario())
