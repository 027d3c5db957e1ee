"""The simulator's listening sockets."""

from __future__ import annotations

import asyncio
import socket

from liveavatar_simulator.service.http_server import bind


async def test_small_replies_are_not_held_back() -> None:
    """Each REST call took 43 ms: the listener did not name TCP, so asyncio left Nagle's algorithm
    on for what it accepted, and a reply's body waited for the acknowledgement of its head."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = bind("127.0.0.1", 0)
    async with await asyncio.start_server(serve, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())

        assert await asyncio.wait_for(accepted, 5) != 0

        writer.close()
        await writer.wait_closed()
