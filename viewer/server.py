"""The viewer as a web server on loopback, inside the running event loop.

Opens the port, makes invitations, stops in bounded time; the routes are in `app`. Not meant for the
internet: there, put your own login in front of your own page.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import uvicorn

from viewer.app import ViewerApp
from viewer.errors import ViewerPortInUse
from viewer.invitations import INVITATION_TTL_S, PASS_TTL_S, Invitations
from viewer.page import STATIC_FOLDER, PageFiles
from viewer.security import LOOPBACK
from viewer.source import ViewerSource, ViewerSpeaker

STATUS_INTERVAL_S: Final = 0.5
START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 5.0


class ViewerServer:
    """Serves the page on loopback while the context is open.

        async with ViewerServer(source, port=8080) as viewer:
            print(viewer.invite("support-42"))

    Args:
        source: provides access and status.
        speaker: speaks the text that viewers type. None: the page shows no input field.
        port: 0 takes a free one.
        livekit_url: the only LiveKit server that the page may reach. None: any over wss, and those
            on this machine over ws. The servers of hosted rooms are known only after the start.
        invitation_ttl_s: how long a code is valid before its first use.
        pass_ttl_s: how long a page that redeemed its code can be reloaded.
        status_interval_s: how often each open page polls, and with it the source is asked.
        static_folder: the page's files.

    Raises:
        ViewerPortInUse: on entering, when another program listens on the port.
    """

    def __init__(
        self,
        source: ViewerSource,
        *,
        speaker: ViewerSpeaker | None = None,
        port: int = 8080,
        livekit_url: str | None = None,
        invitation_ttl_s: float = INVITATION_TTL_S,
        pass_ttl_s: float = PASS_TTL_S,
        status_interval_s: float = STATUS_INTERVAL_S,
        static_folder: Path = STATIC_FOLDER,
    ) -> None:
        self._port = port
        self._invitations = Invitations(invitation_ttl_s=invitation_ttl_s, pass_ttl_s=pass_ttl_s)
        self._app = ViewerApp(
            source,
            speaker,
            invitations=self._invitations,
            page=PageFiles(static_folder, livekit_url),
            status_interval_s=status_interval_s,
        )
        self._server: _EmbeddedServer | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The server's address, without a trailing slash."""
        return f"http://{LOOPBACK}:{self._port}"

    def invite(self, session_key: str) -> str:
        """A link to the session's page. It opens once, in one browser."""
        page, code = self._invitations.invite(session_key)
        return f"{self.url}/watch/{page}#{code}"

    async def __aenter__(self) -> Self:
        try:
            listener = socket.create_server((LOOPBACK, self._port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise ViewerPortInUse(
                f"port {self._port}, which the viewer needs, is in use: end that program, "
                "or choose another port by VIEWER_PORT."
            ) from error
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app.starlette(),
            ws="none",  # no WebSocket is served; older uvicorn would import a deprecated module
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=int(STOP_TIMEOUT_S),
            server_header=False,
        )
        self._server = _EmbeddedServer(config)
        self._serving = asyncio.create_task(
            self._server.serve(sockets=[listener]), name="viewer-server"
        )
        async with asyncio.timeout(START_TIMEOUT_S):
            while not self._server.started and not self._serving.done():
                await asyncio.sleep(0.005)
        if self._serving.done():
            await self._serving
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        assert self._serving is not None
        self._server.should_exit = True
        async with asyncio.timeout(2 * STOP_TIMEOUT_S):
            await self._serving


class _EmbeddedServer(uvicorn.Server):
    """uvicorn without signal handlers: signals belong to the program that embeds the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
