"""A relay passes bytes, and fails on request as a network does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deploy.local.ports import LOOPBACK
from deploy.local.relay import RelayMode, TcpRelay

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class EchoServer:
    """Sends back what it receives, and records it."""

    def __init__(self) -> None:
        self.received = b""
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while piece := await reader.read(1000):
            self.received += piece
            writer.write(piece)
        writer.close()


@asynccontextmanager
async def echo_behind_a_relay() -> AsyncIterator[tuple[EchoServer, TcpRelay]]:
    echo = EchoServer()
    server = await asyncio.start_server(echo.serve, LOOPBACK, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with TcpRelay(LOOPBACK, port).listening() as relay:
            yield echo, relay


async def connect(relay: TcpRelay) -> Connection:
    return await asyncio.open_connection(LOOPBACK, relay.port)


async def echoed(connection: Connection, text: bytes) -> bytes:
    reader, writer = connection
    writer.write(text)
    async with asyncio.timeout(5):
        return await reader.read(1000)


async def test_bytes_pass_in_both_directions() -> None:
    async with echo_behind_a_relay() as (_, relay):
        connection = await connect(relay)
        assert await echoed(connection, b"hello") == b"hello"
        connection[1].close()


async def test_refuse_resets_open_connections_and_new_ones() -> None:
    async with echo_behind_a_relay() as (_, relay):
        connection = await connect(relay)
        assert await echoed(connection, b"hello") == b"hello"
        relay.set_mode(RelayMode.REFUSE)
        with pytest.raises(ConnectionResetError):
            await echoed(connection, b"")
        try:
            later = await connect(relay)
            assert await echoed(later, b"hello") == b""
        except ConnectionError:
            pass
        relay.set_mode(RelayMode.PASS)
        again = await connect(relay)
        assert await echoed(again, b"hello") == b"hello"
        again[1].close()


async def test_swallow_keeps_connections_and_passes_nothing_until_the_mode_changes() -> None:
    async with echo_behind_a_relay() as (_, relay):
        connection = await connect(relay)
        assert await echoed(connection, b"before") == b"before"
        relay.set_mode(RelayMode.SWALLOW)
        connection[1].write(b"held")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await connection[0].read(1000)
        relay.set_mode(RelayMode.PASS)
        assert await echoed(connection, b"") == b"held"
        connection[1].close()


async def test_cut_resets_open_connections_once() -> None:
    async with echo_behind_a_relay() as (_, relay):
        connection = await connect(relay)
        assert await echoed(connection, b"hello") == b"hello"
        assert relay.cut() == 1
        with pytest.raises(ConnectionResetError):
            await echoed(connection, b"")
        again = await connect(relay)
        assert await echoed(again, b"hello") == b"hello"
        again[1].close()


async def test_a_held_request_reaches_the_server_when_the_hold_opens() -> None:
    async with echo_behind_a_relay() as (echo, relay):
        connection = await connect(relay)
        with relay.hold("STOP", times=1) as hold:
            assert await echoed(connection, b"START") == b"START"
            connection[1].write(b"STOP 1")
            await hold.reached(5)
            assert b"STOP" not in echo.received
            hold.opened.set()
            assert await echoed(connection, b"") == b"STOP 1"
        assert await echoed(connection, b"STOP 2") == b"STOP 2"
        connection[1].close()


async def test_a_held_reply_leaves_the_request_in_effect() -> None:
    async with echo_behind_a_relay() as (echo, relay):
        connection = await connect(relay)
        with relay.hold("STOP", reply=True) as hold:
            connection[1].write(b"STOP")
            await hold.reached(5)
            assert echo.received == b"STOP"
        assert await echoed(connection, b"") == b"STOP"
        connection[1].close()


async def test_what_is_held_when_the_connection_is_cut_is_lost() -> None:
    async with echo_behind_a_relay() as (echo, relay):
        connection = await connect(relay)
        assert await echoed(connection, b"before") == b"before"
        with relay.hold("") as hold:
            connection[1].write(b"lost")
            await hold.reached(5)
            relay.cut()
            with pytest.raises(ConnectionResetError):
                await connection[0].read(1000)
        assert echo.received == b"before"


async def test_listening_ends_while_connections_are_open() -> None:
    async with asyncio.timeout(10):
        async with echo_behind_a_relay() as (_, relay):
            reader, _ = await connect(relay)
            relay.set_mode(RelayMode.SWALLOW)
        with pytest.raises(ConnectionResetError):
            await reader.read(10)
