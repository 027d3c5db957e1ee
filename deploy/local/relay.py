"""A TCP relay on loopback that fails on request: a network between two processes of the stack.

Knows no protocol; a request is recognised by its first bytes. Used by tests, benchmarks and chaos.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Self

from deploy.local.ports import LOOPBACK

READ_BYTES: Final = 1 << 16
CLOSE_WITHIN_S: Final = 1.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s


class RelayMode(Enum):
    """What a relay does with bytes and connections."""

    PASS = "pass"  # noqa: S105 - not a password
    REFUSE = "refuse"
    """Open connections are reset, and new ones too: what a host without the server does."""
    SWALLOW = "swallow"
    """Connections stay open and new ones are accepted, but no byte passes: a cut cable.

    Bytes that wait in the relay pass when the mode changes back.
    """


@dataclass(eq=False)
class Hold:
    """Requests, or their replies, that a relay holds until `opened` is set."""

    request: bytes
    """How the request begins, such as ``POST /v1/sessions/stop``. Empty: every request."""
    reply: bool
    """Hold the reply instead of the request: the call takes effect."""
    times: int | None = None
    """How many are held; None: all."""
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    """Set as soon as something is held."""

    def matches(self, piece: bytes) -> bool:
        """Whether bytes that begin like this are held."""
        return self.times != 0 and piece.startswith(self.request)

    def take(self, piece: bytes) -> bool:
        """As `matches`, and counts."""
        taken = self.matches(piece)
        if taken and self.times is not None:
            self.times -= 1
        return taken

    async def reached(self, within_s: float = 30) -> None:
        """Wait until something is held.

        Raises:
            TimeoutError: nothing came within `within_s`.
        """
        async with asyncio.timeout(within_s):
            await self.waiting.wait()

    async def wait_until_open(self) -> None:
        """Be held."""
        self.waiting.set()
        await self.opened.wait()


class TcpRelay:
    """One listening port that leads to another host and port."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._mode = RelayMode.PASS
        self._changed = asyncio.Event()
        self._holds: list[Hold] = []
        self._links: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.port = 0
        """The port of the relay itself, set while it listens."""

    @contextlib.asynccontextmanager
    async def listening(self, host: str = LOOPBACK, port: int = 0) -> AsyncIterator[Self]:
        """Accept connections on this address; port 0 takes a free one."""
        self._mode = RelayMode.PASS
        server = await asyncio.start_server(self._accept, host, port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self._mode = RelayMode.REFUSE  # for connections that are being accepted
            for hold in self._holds:
                hold.opened.set()
            self.cut()
            if self._links:
                await asyncio.wait(tuple(self._links), timeout=CLOSE_WITHIN_S)

    def set_mode(self, mode: RelayMode) -> None:
        """Change what happens to bytes and connections from now on."""
        self._mode = mode
        if mode is RelayMode.REFUSE:
            self.cut()
        self._changed.set()
        self._changed = asyncio.Event()

    def cut(self) -> int:
        """Reset every open connection; returns how many there were. What was held is lost."""
        for link, writer in self._links.items():
            _reset(writer)
            link.cancel()
        return len(self._links)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse connections until the block ends."""
        self.set_mode(RelayMode.REFUSE)
        try:
            yield
        finally:
            self.set_mode(RelayMode.PASS)

    @contextlib.contextmanager
    def hold(
        self, request: str, *, reply: bool = False, times: int | None = None
    ) -> Iterator[Hold]:
        """Hold requests that begin with `request`, or their replies, until the block ends."""
        hold = Hold(request.encode(), reply, times)
        self._holds.append(hold)
        try:
            yield hold
        finally:
            self._holds.remove(hold)
            hold.opened.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is RelayMode.REFUSE:
            _reset(writer)
            return
        link = asyncio.current_task()
        assert link is not None
        self._links[link] = writer
        try:
            # Cancelled by `cut` alone.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._relay(reader, writer)
        finally:
            del self._links[link]
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = b""
        replies: list[Hold] = []  # whose requests have passed, and whose replies have not
        await self._passing()
        while True:
            # After a hold on a new connection: a server closes an idle one.
            there, back = await asyncio.open_connection(*self._target)
            requests = asyncio.create_task(
                self._requests(held, reader, back, replies), name="relay requests"
            )
            answers = asyncio.create_task(
                self._answers(there, writer, replies), name="relay replies"
            )
            try:
                await asyncio.wait({requests, answers}, return_when=asyncio.FIRST_COMPLETED)
                held = await requests if requests.done() else b""
            except asyncio.CancelledError:
                back.transport.abort()
                raise
            finally:
                requests.cancel()
                answers.cancel()
                await asyncio.wait({requests, answers})
                back.close()
            if not held:
                return
            for hold in [one for one in self._holds if not one.reply and one.take(held)]:
                await hold.wait_until_open()

    async def _requests(
        self,
        piece: bytes,
        reader: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        replies: list[Hold],
    ) -> bytes:
        """Pass requests on; returns the first piece that is to be held, or nothing at the end."""
        while True:
            if piece:
                await self._passing()
                replies += [one for one in self._holds if one.reply and one.take(piece)]
                back.write(piece)
                await back.drain()
            await self._passing()
            piece = await reader.read(READ_BYTES)
            if not piece or any(not one.reply and one.matches(piece) for one in self._holds):
                return piece

    async def _answers(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: list[Hold]
    ) -> None:
        while True:
            await self._passing()
            piece = await there.read(READ_BYTES)
            if not piece:
                return
            while replies:
                await replies.pop().wait_until_open()
            await self._passing()
            writer.write(piece)
            await writer.drain()

    async def _passing(self) -> None:
        while self._mode is RelayMode.SWALLOW:
            await self._changed.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset instead of an orderly end."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
