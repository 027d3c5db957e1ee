"""Steps that tests of the viewer page share: open it, wait for its state, read its level meter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from livekit import api
from playwright.async_api import BrowserContext, Page, expect

from avatar_sessions.contract.states import SessionState
from deploy.local.livekit import LiveKitServer
from tests.support.scripted_session import Stage
from tests.support.speech.stand_in_avatar import StandInAvatar, avatar_in, viewer_token
from viewer import ViewerAccess

SOON_MS: Final = 15_000
LOUD: Final = 0.4
"""The avatar's loudness for speech."""
LEVEL: Final = "() => Number(document.querySelector('[role=meter]').ariaValueNow)"


async def open_page(tab: BrowserContext, link: str) -> Page:
    page = await tab.new_page()
    page.set_default_timeout(SOON_MS)
    await page.goto(link)
    return page


async def shows(page: Page, state: str) -> None:
    """Wait until the page's header shows this state."""
    await expect(page.get_by_role("status")).to_have_text(state, timeout=SOON_MS)


async def level_passes(page: Page, dbfs: float) -> None:
    """Wait until the level meter shows more than `dbfs`."""
    async with asyncio.timeout(SOON_MS / 1000):
        while await page.evaluate(LEVEL) <= dbfs:
            await asyncio.sleep(0.05)


# ------------------------------------------------------------ rooms


def room_api(livekit: LiveKitServer) -> api.LiveKitAPI:
    return api.LiveKitAPI(livekit.url, livekit.api_key, livekit.api_secret)


async def identities(rooms: api.LiveKitAPI, room: str) -> list[str]:
    """The participants in the room."""
    listed = await rooms.room.list_participants(api.ListParticipantsRequest(room=room))
    return [one.identity for one in listed.participants]


async def delete_room(livekit: LiveKitServer, room: str) -> None:
    async with room_api(livekit) as rooms:
        await rooms.room.delete_room(api.DeleteRoomRequest(room=room))


@dataclass
class NextGeneration:
    """The room and avatar of the next LiveAvatar session."""

    stage: Stage
    room: str
    avatar: StandInAvatar
    access: ViewerAccess

    def switch(self) -> None:
        """Move the session to the next generation."""
        self.stage.session.granted = self.access
        self.stage.session.becomes(SessionState.LIVE, generation=2)


@contextlib.asynccontextmanager
async def next_generation(
    stage: Stage, *, may_speak: bool = False
) -> AsyncIterator[NextGeneration]:
    """A second hosted room. LiveAvatar hosts one per session, with the same identities in it."""
    livekit = stage.livekit
    token = viewer_token(livekit, stage.room, may_speak=may_speak)
    stage.session.granted = ViewerAccess(livekit.url, token, generation=1)
    stage.session.becomes(SessionState.LIVE, generation=1)
    room = f"viewer-test-{uuid4().hex[:8]}"
    token = viewer_token(livekit, room, may_speak=may_speak)
    async with avatar_in(livekit, room, mirrored=True) as avatar:
        yield NextGeneration(stage, room, avatar, ViewerAccess(livekit.url, token, generation=2))
