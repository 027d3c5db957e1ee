"""A viewer server whose session is scripted, a browser, and a real room with an avatar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext

from avatar_sessions.contract.states import SessionState
from deploy.local.livekit import LiveKitServer
from tests.support.browser import browser, livekit_client, playwright  # noqa: F401 (fixtures)
from tests.support.scripted_session import ScriptedSession, Stage
from tests.support.speech.stand_in_avatar import avatar_in, viewer_token
from viewer import ViewerAccess, ViewerServer


@pytest.fixture
def session() -> ScriptedSession:
    return ScriptedSession()


@pytest_asyncio.fixture
async def viewer(session: ScriptedSession) -> AsyncIterator[ViewerServer]:
    """A viewer server, polled often."""
    async with ViewerServer(session, port=0, status_interval_s=0.02) as server:
        yield server


@pytest_asyncio.fixture
async def client(viewer: ViewerServer) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client that keeps cookies and sends the page's origin, as a browser does."""
    headers = {"origin": viewer.url}
    async with httpx.AsyncClient(base_url=viewer.url, headers=headers, timeout=10) as client:
        yield client


@pytest_asyncio.fixture
async def tab(browser: Browser) -> AsyncIterator[BrowserContext]:  # noqa: F811 (the fixture)
    """A fresh browser profile."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    yield context
    await context.close()


@pytest_asyncio.fixture
async def stage(session: ScriptedSession, livekit: LiveKitServer) -> AsyncIterator[Stage]:
    room = f"viewer-test-{uuid4().hex[:8]}"
    token = viewer_token(livekit, room)
    session.granted = ViewerAccess(livekit.url, token)
    session.becomes(SessionState.LIVE, live_at=datetime.now(UTC))
    async with avatar_in(livekit, room) as avatar:
        yield Stage(room, avatar, session, livekit, [token])
