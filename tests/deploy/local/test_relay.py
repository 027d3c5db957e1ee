"""A network that fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chaos.environment.proxy import Proxy, ProxyMode

HOST = "127.0.0.1"


@asynccontextmanager
async def echo_behind_a_proxy() -> AsyncIterator[Proxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1000):
            writer.write(piece)
        writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    async with server:
        proxy = Proxy((HOST, server.sockets[0].getsockname()[1]))
        async with proxy.listening(HOST):
            yield proxy


async def said_back(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], text: bytes
) -> bytes:
    reader, writer = connection
    writer.write(text)
    async with asyncio.timeout(5):
        return await reader.read(1000)


async def test_it_passes_what_comes() -> None:
    async with echo_behind_a_proxy() as proxy:
        connection = await asyncio.open_connection(HOST, proxy.port)
        assert await said_back(connection, b"hello") == b"hello"
        connection[1].close()


async def test_refusing_resets_what_is_open_and_what_comes() -> None:
    async with echo_behind_a_proxy() as proxy:
        connection = await asyncio.open_connection(HOST, proxy.port)
        assert await said_back(connection, b"hello") == b"hello"
        proxy.go(ProxyMode.REFUSE)
        with pytest.raises(ConnectionResetError):
            await said_back(connection, b"")
        try:
            later = await asyncio.open_connection(HOST, proxy.port)
            assert await said_back(later, b"hello") == b""
        except ConnectionError:
            pass
        proxy.go(ProxyMode.PASS)
        again = await asyncio.open_connection(HOST, proxy.port)
        assert await said_back(again, b"hello") == b"hello"
        again[1].close()


async def test_swallowing_keeps_connections_and_passes_nothing_until_it_is_over() -> None:
    async with echo_behind_a_proxy() as proxy:
        connection = await asyncio.open_connection(HOST, proxy.port)
        assert await said_back(connection, b"before") == b"before"
        proxy.go(ProxyMode.SWALLOW)
        connection[1].write(b"held")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await connection[0].read(1000)
        proxy.go(ProxyMode.PASS)
        assert await said_back(connection, b"") == b"held"
        connection[1].close()


async def test_it_ends_with_connections_open() -> None:
    async with asyncio.timeout(10):
        async with echo_behind_a_proxy() as proxy:
            reader, _ = await asyncio.open_connection(HOST, proxy.port)
            proxy.go(ProxyMode.SWALLOW)
        with pytest.raises(ConnectionResetError):
            await reader.read(10)
