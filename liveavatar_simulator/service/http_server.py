"""Serves an ASGI app in the running event loop: no signal handlers, no logging set-up, bounded end.

Keeps the connection of each request, so that a fault can drop a reply.
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
"""How long requests in flight may take when the server closes."""


class AddressInUse(Exception):
    """Another program listens on the address."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is in use")
        self.host = host
        self.port = port


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        AddressInUse: another program listens on the port.
        OSError: the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm (40 ms per small reply) only for sockets that name TCP.
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
    """The host for a URL: loopback for a wildcard address, brackets around IPv6."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


class _EmbeddedServer(uvicorn.Server):
    """uvicorn without signal handlers: signals belong to the program that embeds the server."""

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
        """Serve the app on a bound socket; returns when it serves."""
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
        self._server = _EmbeddedServer(config)
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
        """Cut the connection of a request, without a reply."""
        if request.client is not None:
            transport = self._transports.get((request.client.host, request.client.port))
            if transport is not None:
                transport.abort()

    def _protocol(self) -> type[asyncio.Protocol]:
        transports = self._transports

        class TrackedProtocol(H11Protocol):
            """uvicorn's protocol, which also registers its connection."""

            peer: tuple[str, int] | None = None

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                # A cast: uvloop's transports do not inherit from asyncio's.
                connection = cast(asyncio.Transport, transport)
                super().connection_made(connection)
                self.peer = connection.get_extra_info("peername")[:2]
                transports[self.peer] = connection

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                if self.peer is not None:
                    transports.pop(self.peer, None)

        return TrackedProtocol
