"""A TCP proxy on loopback that can be told to refuse, or to swallow: a network that fails.

Refusing is what a dead host's neighbour does; swallowing is what a cut cable does: connections
stay, and nothing comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final

_READ_BYTES: Final = 1 << 16
DROP_WAIT_S: Final = 1.0
_NO_LINGERING: Final = struct.pack("ii", 1, 0)


class ProxyMode(Enum):
    """What becomes of the bytes."""

    PASS = "pass"  # noqa: S105 - they pass
    REFUSE = "refuse"
    """Open connections are reset, and new ones with them."""
    SWALLOW = "swallow"
    """Connections stay and are taken, and nothing goes through them, in either direction."""


class Proxy:
    """One listening port that leads to another."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._way = ProxyMode.PASS
        self._changed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        """Set while it listens."""

    @asynccontextmanager
    async def listening(self, host: str, port: int = 0) -> AsyncIterator[None]:
        """Take connections on this address; 0 takes a free port."""
        server = await asyncio.start_server(self._take, host, port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            self._reset_all()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=DROP_WAIT_S)

    def go(self, way: ProxyMode) -> None:
        """From now on."""
        self._way = way
        if way is ProxyMode.REFUSE:
            self._reset_all()
        self._changed.set()
        self._changed = asyncio.Event()

    def _reset_all(self) -> None:
        for writer in self._writers:
            _reset(writer)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # Cancelled by nobody but us, when the listening ends.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._way is ProxyMode.REFUSE:
            return  # and reset, by who called
        self._writers.add(writer)
        try:
            await self._passing()
            onward_reader, onward = await asyncio.open_connection(*self._target)
            self._writers.add(onward)
            try:
                there = asyncio.create_task(self._pump(reader, onward), name="proxy there")
                back = asyncio.create_task(self._pump(onward_reader, writer), name="proxy back")
                try:
                    await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    there.cancel()
                    back.cancel()
                    await asyncio.wait({there, back})
            finally:
                self._writers.discard(onward)
                onward.transport.abort()
        finally:
            self._writers.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                await self._passing()
                piece = await reader.read(_READ_BYTES)
                if not piece:
                    return
                await self._passing()
                writer.write(piece)
                await writer.drain()

    async def _passing(self) -> None:
        while self._way is ProxyMode.SWALLOW:
            await self._changed.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset instead of a goodbye."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
    writer.transport.abort()
