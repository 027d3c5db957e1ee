"""The REST client over real sockets: refused connections, lost replies, timeouts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from liveavatar_lite import (
    LiveAvatar,
    OutcomeUnknown,
    ServiceUnreachable,
    StopOutcome,
)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TOKEN = SecretStr("fake-session-token-0123456789")


@asynccontextmanager
async def service(handler: Handler) -> AsyncIterator[str]:
    """A TCP server that runs the handler for each connection; yields its address."""
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def client(address: str, *, reply_timeout_s: float = 5, call_timeout_s: float = 10) -> LiveAvatar:
    return LiveAvatar(
        SecretStr("fake-api-key-0123456789"),
        base_url=address,
        reply_timeout_s=reply_timeout_s,
        call_timeout_s=call_timeout_s,
    )


async def read_request(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def test_a_refused_connection_is_not_billed(unused_tcp_port: int) -> None:
    async with client(f"http://127.0.0.1:{unused_tcp_port}") as liveavatar:
        with pytest.raises(ServiceUnreachable, match="LIVEAVATAR_API_URL") as failure:
            await liveavatar.start_session(TOKEN)

    assert failure.value.retryable
    assert not failure.value.maybe_billed


async def test_a_lost_reply_to_a_start_may_be_billed() -> None:
    """The service reads the request, starts the session, and the connection breaks."""
    seen = []

    async def read_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))

    async with service(read_and_close) as address, client(address) as liveavatar:
        with pytest.raises(OutcomeUnknown) as failure:
            await liveavatar.start_session(TOKEN)

    assert failure.value.maybe_billed
    assert not failure.value.retryable
    assert len(seen) == 1, "a start is never retried here"


async def test_a_silent_service_times_out() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with service(hang) as address, client(address, reply_timeout_s=0.2) as liveavatar:
        began_s = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="ReadTimeout"):
            await liveavatar.stop_session("s-1")

    assert time.monotonic() - began_s < 5


async def test_a_slow_reply_is_bounded_as_a_whole() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        for _ in range(300):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.1)

    async with service(trickle) as address, client(address, call_timeout_s=0.5) as liveavatar:
        began_s = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="no reply came"):
            await liveavatar.start_session(TOKEN)

    assert time.monotonic() - began_s < 5


async def test_a_truncated_reply_counts_as_lost() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b'HTTP/1.1 201 Created\r\ncontent-length: 500\r\n\r\n{"code":1000,')
        await writer.drain()

    async with service(cut) as address, client(address) as liveavatar:
        with pytest.raises(OutcomeUnknown) as failure:
            await liveavatar.start_session(TOKEN)

    assert failure.value.maybe_billed


async def test_calls_share_a_connection_and_close_ends_it() -> None:
    connections, ended = 0, asyncio.Event()

    async def stop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        body = json.dumps({"code": 1000, "data": None, "message": "ok"}).encode()
        while head := await reader.readline():
            sent_bytes = 0
            while head.strip():
                if head.lower().startswith(b"content-length:"):
                    sent_bytes = int(head.split(b":")[1])
                head = await reader.readline()
            await reader.readexactly(sent_bytes)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        ended.set()

    async with service(stop) as address:
        async with client(address) as liveavatar:
            for _ in range(3):
                assert await liveavatar.stop_session("s-1") is StopOutcome.STOPPED
        await asyncio.wait_for(ended.wait(), 5)

    assert connections == 1
