"""A gate between our workers and a server: what passes can be held up, or the way be cut.

For the moments in which a call is under way, has arrived late, or will never be answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final

PIECE_BYTES: Final = 65_536


@dataclass(eq=False)
class Hold:
    """Something that is to be held up."""

    request: bytes
    """What the request begins with, such as ``POST /v1/sessions/stop``."""
    reply: bool
    """Hold the reply, not the request: the call takes effect."""
    times: int | None = None
    """How many are to be held up; None: all."""
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while something waits here."""

    def takes(self, piece: bytes) -> bool:
        """Whether this is to be held up; it counts."""
        taken = self.would_take(piece)
        if taken and self.times is not None:
            self.times -= 1
        return taken

    def would_take(self, piece: bytes) -> bool:
        return self.times != 0 and piece.startswith(self.request)

    async def reached(self, within_s: float = 30) -> None:
        """Wait until something waits here."""
        async with asyncio.timeout(within_s):
            await self.waiting.wait()


class TcpGate:
    """Forwards TCP to a server on this machine."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._holds: list[Hold] = []
        self._links: set[asyncio.Task[None]] = set()
        self.closed = False
        """Nobody comes through: connections are dropped at once."""
        self.port = 0

    @contextlib.asynccontextmanager
    async def standing(self) -> AsyncIterator[TcpGate]:
        server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.closed = True
            server.close()
            for hold in self._holds:
                hold.opened.set()
            # One that was let in at the last moment has not said yet that it is here.
            await asyncio.sleep(0.05)
            while self._links:
                for link in self._links:
                    link.cancel()
                await asyncio.wait(self._links)

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Drop all connections, and let nobody through until the block ends."""
        self.closed = True
        for link in self._links:
            link.cancel()
        try:
            yield
        finally:
            self.closed = False

    @contextlib.contextmanager
    def hold(
        self, request: str, *, reply: bool = False, times: int | None = None
    ) -> Iterator[Hold]:
        """Hold up whatever begins so, until the block ends."""
        hold = Hold(request.encode(), reply, times)
        self._holds.append(hold)
        try:
            yield hold
        finally:
            self._holds.remove(hold)
            hold.opened.set()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        task.add_done_callback(self._links.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if not self.closed:
                await self._forward(reader, writer)
        writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(PIECE_BYTES)
        replies: list[Hold] = []  # whose requests have passed, and whose replies are to come
        while first:
            for hold in [one for one in self._holds if not one.reply and one.takes(first)]:
                await _pass(hold)
            # After a hold on a connection of its own: the server would have closed an idle one.
            there, back = await asyncio.open_connection(*self._target)
            sending = asyncio.create_task(self._send(first, reader, back, replies), name="requests")
            answering = asyncio.create_task(self._answer(there, writer, replies), name="replies")
            try:
                await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
                first = await sending if sending.done() else b""
            finally:
                sending.cancel()
                answering.cancel()
                await asyncio.wait({sending, answering})
                back.close()

    async def _send(
        self,
        piece: bytes,
        reader: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        replies: list[Hold],
    ) -> bytes:
        """Send on; returns the first piece that is to be held up, or nothing at the end."""
        while piece:
            replies += [one for one in self._holds if one.reply and one.takes(piece)]
            back.write(piece)
            await back.drain()
            piece = await reader.read(PIECE_BYTES)
            if any(not one.reply and one.would_take(piece) for one in self._holds):
                return piece
        return b""

    async def _answer(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: list[Hold]
    ) -> None:
        while piece := await there.read(PIECE_BYTES):
            while replies:
                await _pass(replies.pop())
            writer.write(piece)
            await writer.drain()


async def _pass(hold: Hold) -> None:
    hold.waiting.set()
    await hold.opened.wait()
