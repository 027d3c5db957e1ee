"""A real browser, a real viewer server and a session that does what the test says."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Playwright, async_playwright
from pydantic import SecretStr

from avatar_sessions.contract.states import SessionState
from deploy.local.settings import LocalSettings
from deploy.local.stack import LiveKitServer
from tests.support.stand_in_avatar import StandInAvatar, avatar_in, viewer_token
from viewer import ViewerAccess, ViewerServer, ViewerSourceError, ViewerStatus
from viewer.page import STATIC_FOLDER

CHROMIUM_ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HEAR_AT_ONCE: Final = "--autoplay-policy=no-user-gesture-required"
HEAR_AFTER_A_CLICK: Final = "--autoplay-policy=document-user-activation-required"
FAKE_MICROPHONE: Final = "--use-fake-device-for-media-stream"
SAY_YES: Final = "--use-fake-ui-for-media-stream"
NPM_TIMEOUT_S: Final = 50.0
FAKE_TOKEN: Final = "fake-livekit-token-for-tests"


@dataclass
class PlayedSession:
    """A `ViewerSource` whose one session does what the test says."""

    now: ViewerStatus = field(default_factory=lambda: ViewerStatus(SessionState.LIVE))
    granted: ViewerAccess = field(
        default_factory=lambda: ViewerAccess("ws://127.0.0.1:1", SecretStr(FAKE_TOKEN))
    )
    trouble: str | None = None
    """While set, the source cannot answer."""
    keys: list[str] = field(default_factory=list)
    """The session keys that access was asked for."""

    async def access(self, session_key: str) -> ViewerAccess:
        self.keys.append(session_key)
        return self.granted

    async def status(self, session_key: str) -> ViewerStatus:
        if self.trouble is not None:
            raise ViewerSourceError(self.trouble)
        return self.now

    def becomes(self, state: SessionState, **more: Any) -> None:
        """The session goes on to `state`."""
        self.now = replace(self.now, state=state, **more)


@pytest.fixture
def session() -> PlayedSession:
    return PlayedSession()


@pytest_asyncio.fixture
async def viewer(session: PlayedSession) -> AsyncIterator[ViewerServer]:
    """A viewer server without a browser."""
    async with ViewerServer(session, port=0, status_interval_s=0.02) as server:
        yield server


@pytest_asyncio.fixture
async def client(viewer: ViewerServer) -> AsyncIterator[httpx.AsyncClient]:
    """A browser's stand-in: keeps cookies, names the page's origin."""
    headers = {"origin": viewer.url}
    async with httpx.AsyncClient(base_url=viewer.url, headers=headers, timeout=10) as client:
        yield client


@pytest_asyncio.fixture(scope="session")
async def livekit_client() -> None:
    """livekit-client from npm, as the page's server finds it; installed if it is missing."""
    if (STATIC_FOLDER / "node_modules" / "livekit-client").is_dir():
        return
    npm = shutil.which("npm")
    if npm is None:
        reason = "npm is not installed, and the page's test needs livekit-client from it"
        if LocalSettings().ci:
            pytest.fail(reason)
        pytest.skip(reason)
    install = await asyncio.create_subprocess_exec(
        npm, "ci", "--prefix", str(STATIC_FOLDER), "--no-audit", "--no-fund"
    )
    async with asyncio.timeout(NPM_TIMEOUT_S):
        assert await install.wait() == 0, "npm ci failed; its words stand above"


@pytest_asyncio.fixture(scope="session")
async def playwright() -> AsyncIterator[Playwright]:
    async with async_playwright() as playwright:
        yield playwright


@pytest_asyncio.fixture(scope="session")
async def browser(
    playwright: Playwright, chromium: Path, livekit_client: None
) -> AsyncIterator[Browser]:
    """Headless Chromium that plays sound without a click."""
    browser = await playwright.chromium.launch(
        executable_path=chromium, args=[*CHROMIUM_ARGUMENTS, HEAR_AT_ONCE]
    )
    yield browser
    await browser.close()


@contextlib.asynccontextmanager
async def browser_that_hears(
    playwright: Playwright, chromium: Path, sound: Path, *arguments: str
) -> AsyncIterator[Browser]:
    """Chromium with a microphone that hears a WAV file, from its beginning at each opening."""
    browser = await playwright.chromium.launch(
        executable_path=chromium,
        args=[
            *(*CHROMIUM_ARGUMENTS, HEAR_AT_ONCE, FAKE_MICROPHONE, *arguments),
            f"--use-file-for-fake-audio-capture={sound}",
        ],
    )
    try:
        yield browser
    finally:
        await browser.close()


@pytest_asyncio.fixture
async def tab(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A fresh browser profile with nothing in it."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    yield context
    await context.close()


@dataclass
class Stage:
    """One test's room, with the avatar in it, and the session that leads there."""

    room: str
    avatar: StandInAvatar
    session: PlayedSession
    livekit: LiveKitServer
    tokens: list[SecretStr] = field(default_factory=list)


@pytest_asyncio.fixture
async def stage(session: PlayedSession, livekit: LiveKitServer) -> AsyncIterator[Stage]:
    room = f"viewer-test-{uuid4().hex[:8]}"
    token = viewer_token(livekit, room)
    session.granted = ViewerAccess(livekit.url, token)
    session.becomes(SessionState.LIVE, live_at=datetime.now(UTC))
    async with avatar_in(livekit, room) as avatar:
        yield Stage(room, avatar, session, livekit, [token])
