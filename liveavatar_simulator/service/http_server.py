"""Serves an ASGI app inside a running event loop: no signal handlers, no log set-up, bounded end.

Also knows the connection of each request, so that a reply can be lost on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final, cast

import uvicorn
from fastapi import FastAPI, Request
from uvicorn.protocols.http.h11_impl import H11Protocol

STARTED_TIMEOUT_S: Final = 10.0
GRACE_S: Final = 2
"""Requests in flight may finish within this when the server closes."""


class AddressInUse(Exception):
    """Somebody else listens where we should."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is in use")
        self.host = host
        self.port = port


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        PortInUse: it is taken.
        OSError: the host is not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named: asyncio turns Nagle off (40 ms a small reply) only where it is TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if isinstance(error, PermissionError) or error.errno in _IN_USE:
            raise AddressInUse(host, port) from error
        raise
    listener.setblocking(False)
    return listener


_IN_USE: Final = frozenset({48, 98, 10048})  # macOS, Linux, Windows


def printable_host(host: str) -> str:
    """An address of this machine as it stands in a URL; for "all of them" the loopback one."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


class _QuietServer(uvicorn.Server):
    """Signals are the process's business, not this server's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RestServer:
    """One app on one socket."""

    def __init__(self) -> None:
        self._transports: dict[tuple[str, int], asyncio.Transport] = {}
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self, app: FastAPI, listener: socket.socket) -> None:
        """Serve the app on a socket that is already bound; returns once it does."""
        config = uvicorn.Config(
            app,
            http=self._protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = _QuietServer(config)
        self._task = asyncio.create_task(
            self._server.serve(sockets=[listener]), name="simulator-rest"
        )
        async with asyncio.timeout(STARTED_TIMEOUT_S):
            while not self._server.started:
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Stop. Requests in flight get `GRACE_S`."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await asyncio.wait([self._task], timeout=GRACE_S + 1)
        if not self._task.done():
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def abort(self, request: Request) -> None:
        """Drop the connection that a request came by."""
        if request.client is not None:
            transport = self._transports.get((request.client.host, request.client.port))
            if transport is not None:
                transport.abort()

    def _protocol(self) -> type[asyncio.Protocol]:
        transports = self._transports

        class TrackedProtocol(H11Protocol):
            """Uvicorn's own, with its connection on record."""

            peer: tuple[str, int] | None = None

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                # No check of its class: uvloop's transports are not of asyncio's.
                connection = cast(asyncio.Transport, transport)
                super().connection_made(connection)
                self.peer = connection.get_extra_info("peername")[:2]
                transports[self.peer] = connection

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                if self.peer is not None:
                    transports.pop(self.peer, None)

        return TrackedProtocol
