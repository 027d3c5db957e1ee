"""The example backend on a free port, in this process, and HTTP clients as its browsers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import httpx
import uvicorn

from avatar_sessions import AvatarSessions, Session
from examples.backend.app import create_app
from examples.backend.settings import BackendSettings
from examples.tts import StreamingTts
from liveavatar_simulator import SessionLine
from tests.support.platforms.product import Product
from tests.support.waiting import until


class _EmbeddedServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class BackendCaller:
    """A browser that has opened the page, and keeps its cookie."""

    def __init__(self, http: httpx.AsyncClient, product: Product) -> None:
        self.http = http
        self._product = product
        self.session_key = ""

    async def start(self) -> Session:
        """Start a session, and wait until it is live."""
        answer = await self.post("")
        assert answer.status_code == 202, answer.text
        self.session_key = answer.json()["session_key"]
        assert (await self.post("/access")).status_code == 200
        return self._product.sessions.get(self.session_key)

    async def post(self, path: str, body: object = None) -> httpx.Response:
        return await self.http.post(f"/api/session{path}", json=body)

    def saying(self, text: str) -> asyncio.Task[httpx.Response]:
        """A running request to speak this text."""
        return asyncio.create_task(self.post("/say", {"text": text}), name=f"request: say {text}")

    async def line(self) -> SessionLine:
        """The session in the simulator's ledger."""
        status = await self._product.sessions.get(self.session_key).status()
        lines = self._product.simulator.ledger().sessions
        (line,) = (one for one in lines if one.session_id == status.provider_session_id)
        return line


class RunningBackend:
    """A running backend, and its callers."""

    def __init__(self, url: str, product: Product) -> None:
        self.url = url
        self._product = product

    @contextlib.asynccontextmanager
    async def caller(self) -> AsyncIterator[BackendCaller]:
        """A browser; its session is ended unless the test has ended it."""
        async with httpx.AsyncClient(base_url=self.url, timeout=50, trust_env=False) as http:
            await http.get("/")
            caller = BackendCaller(http, self._product)
            yield caller
            if caller.session_key:
                await http.delete("/api/session")


@contextlib.asynccontextmanager
async def backend(
    product: Product, tts: StreamingTts | None, **settings: object
) -> AsyncIterator[RunningBackend]:
    """The backend with this voice; None: the voice of the settings."""

    async def connect() -> AvatarSessions:
        return product.sessions

    chosen = BackendSettings.model_validate({"backend_sandbox": False, **settings})
    app = create_app(chosen, connect=connect, tts=tts)
    config = uvicorn.Config(
        app, ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=2
    )
    server = _EmbeddedServer(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="backend")
        try:
            await until(lambda: server.started or serving.done())
            port: int = listener.getsockname()[1]
            yield RunningBackend(f"http://127.0.0.1:{port}", product)
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, 20)
