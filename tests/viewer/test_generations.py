"""A session goes on in another LiveAvatar session, and the page follows by itself.

A hosted room goes with its LiveAvatar session, and the next one has another. In a room of our own
the next avatar comes beside the old one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import pytest
from livekit import api
from playwright.async_api import BrowserContext, Page, expect

from avatar_sessions.contract.states import SessionState
from deploy.local.stack import LiveKitServer
from tests.support.page import SOON_MS, open_page, shows
from tests.support.stand_in_avatar import StandInAvatar, avatar_in, viewer_token
from tests.support.waiting import until
from tests.viewer.conftest import Stage
from tests.viewer.test_page import LOUD, identities, level_passes
from viewer import ViewerAccess, ViewerServer

FIRST, SECOND = "first", "second"
NEXT_IDENTITY: Final = "avatar-generation-2"

# What is on the screen, frame by frame: whose picture, and whether a card covers it.
WATCH = """() => {
  const [video, last] = ['avatar', 'last'].map((id) => document.getElementById(id));
  const context = new OffscreenCanvas(8, 2).getContext('2d', { willReadFrequently: true });
  const who = () => {
    context.clearRect(0, 0, 8, 2);
    context.drawImage(last.style.visibility === 'hidden' ? video : last, 0, 0, 8, 2);
    const { data } = context.getImageData(0, 0, 8, 2);
    if (data[0] + data[2] < 100) return 'black'; // red and blue add up to 255 in every picture
    return data[1] < data[7 * 4 + 1] ? 'first' : 'second';
  };
  window.story = [];
  const look = () => {
    const seen = document.body.dataset.covered === 'true' ? 'a card' : who();
    if (window.story.at(-1) !== seen) window.story.push(seen);
    requestAnimationFrame(look);
  };
  look();
}"""

LAST_PICTURE = "document.getElementById('last').style.visibility"


async def watch(page: Page) -> None:
    """From now on the page remembers what was to be seen."""
    await page.evaluate(WATCH)


async def story(page: Page) -> list[str]:
    """What was to be seen, one after the other."""
    told: list[str] = await page.evaluate("() => window.story")
    return told


async def comes_to_show(page: Page, who: str) -> None:
    await page.wait_for_function("(who) => window.story.at(-1) === who", arg=who, timeout=SOON_MS)


def rooms_of(livekit: LiveKitServer) -> api.LiveKitAPI:
    return api.LiveKitAPI(livekit.url, livekit.api_key, livekit.api_secret)


async def delete(livekit: LiveKitServer, room: str) -> None:
    async with rooms_of(livekit) as rooms:
        await rooms.room.delete_room(api.DeleteRoomRequest(room=room))


async def is_there(livekit: LiveKitServer, room: str) -> bool:
    async with rooms_of(livekit) as rooms:
        return bool((await rooms.room.list_rooms(api.ListRoomsRequest(names=[room]))).rooms)


async def without_viewer(livekit: LiveKitServer, room: str) -> None:
    """Wait until no viewer is in the room any more."""
    async with rooms_of(livekit) as rooms, asyncio.timeout(SOON_MS / 1000):
        while "viewer" in await identities(rooms, room):
            await asyncio.sleep(0.1)


# ------------------------------------------------------------ rooms that LiveAvatar hosts


@dataclass
class Hosted:
    """The room of the next LiveAvatar session."""

    stage: Stage
    room: str
    avatar: StandInAvatar
    access: ViewerAccess

    def switch(self) -> None:
        """The session is in the next generation from now on."""
        self.stage.session.granted = self.access
        self.stage.session.becomes(SessionState.LIVE, generation=2)


@contextlib.asynccontextmanager
async def next_room(stage: Stage, *, may_speak: bool = False) -> AsyncIterator[Hosted]:
    """As LiveAvatar hosts them: another room for each session, the same names in it."""
    livekit = stage.livekit
    token = viewer_token(livekit, stage.room, may_speak=may_speak)
    stage.session.granted = ViewerAccess(livekit.url, token, generation=1)
    stage.session.becomes(SessionState.LIVE, generation=1)
    room = f"viewer-test-{uuid4().hex[:8]}"
    token = viewer_token(livekit, room, may_speak=may_speak)
    async with avatar_in(livekit, room, mirrored=True) as avatar:
        yield Hosted(stage, room, avatar, ViewerAccess(livekit.url, token, generation=2))


async def test_the_page_goes_on_in_the_room_of_the_next_liveavatar_session(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """The old room is deleted with its session, in the moment of the switch."""
    async with next_room(stage) as following:
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await watch(page)
        following.avatar.loudness = LOUD

        following.switch()
        await delete(stage.livekit, stage.room)

        await comes_to_show(page, SECOND)
        await shows(page, "Talking")
        await level_passes(page, -25)
        assert await story(page) == [FIRST, SECOND]
        assert stage.session.keys == ["support-42", "support-42"]
        assert not await is_there(stage.livekit, stage.room)


async def test_a_room_that_outlives_the_switch_is_left_for_the_next_one_without_a_gap(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """The page joins the next room first: not even for a moment does it say that it reconnects."""
    async with next_room(stage) as following:
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await watch(page)
        await page.evaluate(
            """() => {
              window.said = [];
              const state = document.getElementById('state');
              const note = () => window.said.push(state.textContent);
              new MutationObserver(note).observe(state, { childList: true });
            }"""
        )

        following.switch()

        await comes_to_show(page, SECOND)
        await without_viewer(stage.livekit, stage.room)
        following.avatar.loudness = LOUD
        await shows(page, "Talking")
        assert await story(page) == [FIRST, SECOND]
        assert await page.evaluate("() => window.said") == ["Talking"]


async def test_a_liveavatar_session_that_is_lost_leaves_its_last_picture_until_the_next_one(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """The room goes before anybody knows why, and its access is good for nothing any more.

    A page that used it again had LiveKit's server make the room anew, and sat there alone.
    """
    async with next_room(stage) as following:
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await watch(page)

        await delete(stage.livekit, stage.room)
        await shows(page, "Reconnecting")
        await until(lambda: len(stage.session.keys) > 1)
        stage.session.becomes(SessionState.RECOVERING)
        asked = len(stage.session.keys)
        stage.session.becomes(SessionState.RECOVERING, generation=2)
        await asyncio.sleep(2)  # LiveAvatar takes its time to start another one
        assert len(stage.session.keys) == asked
        assert not await is_there(stage.livekit, stage.room)
        following.switch()

        await comes_to_show(page, SECOND)
        await shows(page, "Idle")
        assert await story(page) == [FIRST, SECOND]


async def test_a_liveavatar_session_that_never_returns_is_told_in_words(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    async with next_room(stage):
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        stage.session.becomes(SessionState.RECOVERING)
        await delete(stage.livekit, stage.room)
        await shows(page, "Reconnecting")
        await expect(page.locator("#veil")).to_be_hidden()

        await expect(page.get_by_text("The connection is being restored.")).to_be_visible(
            timeout=2 * SOON_MS
        )


async def test_a_voice_that_was_muted_stays_so_in_the_next_room(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """livekit-client unmutes whatever it attaches a track to: each rejoin broke the silence."""
    async with next_room(stage) as following:
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await page.get_by_role("button", name="Mute", exact=True).click()
        await watch(page)

        following.switch()

        await comes_to_show(page, SECOND)
        assert await page.locator("audio").evaluate("(one) => one.muted && one.srcObject !== null")
        await expect(page.get_by_role("button", name="Unmute")).to_be_visible()


# ------------------------------------------------------------ rooms of our own


@contextlib.asynccontextmanager
async def own_room(stage: Stage) -> AsyncIterator[StandInAvatar]:
    """The first avatar, by the name that it has in a room of ours."""
    await stage.avatar.room.disconnect()
    stage.session.becomes(SessionState.LIVE, generation=1)
    async with avatar_in(stage.livekit, stage.room, "avatar") as avatar:
        yield avatar


async def heard_by(page: Page) -> dict[str, Any]:
    """How many sounds the page plays."""
    played: dict[str, Any] = await page.evaluate(
        """() => {
          const playing = [...document.querySelectorAll('audio, video')]
            .filter((one) => !one.paused && !one.muted);
          const tracks = playing.flatMap((one) => one.srcObject?.getAudioTracks() ?? []);
          return { elements: playing.length, tracks: tracks.length };
        }"""
    )
    return played


@pytest.mark.parametrize("how", ["leaves", "stays"])
async def test_the_next_avatar_waits_unseen_until_the_first_one_is_done(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext, how: str
) -> None:
    """It takes over when the first one leaves, or when it speaks: whichever is first."""
    async with contextlib.AsyncExitStack() as later, contextlib.AsyncExitStack() as earlier:
        first = await earlier.enter_async_context(own_room(stage))
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await watch(page)
        second = await later.enter_async_context(
            avatar_in(stage.livekit, stage.room, NEXT_IDENTITY, mirrored=True)
        )
        await page.wait_for_function(f"() => {LAST_PICTURE} !== 'hidden'")

        first.loudness = LOUD
        await shows(page, "Talking")
        await level_passes(page, -25)
        first.loudness = 0.0
        await shows(page, "Idle")
        assert await story(page) == [FIRST]
        stage.session.becomes(SessionState.LIVE, generation=2)
        if how == "leaves":
            await earlier.aclose()
            await comes_to_show(page, SECOND)
        second.loudness = LOUD

        await shows(page, "Talking")
        await level_passes(page, -25)
        await comes_to_show(page, SECOND)
        assert await heard_by(page) == {"elements": 1, "tracks": 1}
        await earlier.aclose()
        await page.wait_for_function(f"() => {LAST_PICTURE} === 'hidden'")
        assert await story(page) == [FIRST, SECOND]
        assert stage.session.keys == ["support-42"]


async def test_a_person_with_a_camera_is_not_the_next_avatar(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    async with own_room(stage) as avatar:
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await watch(page)
        async with avatar_in(stage.livekit, stage.room, "ada", mirrored=True) as person:
            person.loudness = LOUD
            await asyncio.sleep(1)  # long enough to be heard
            await shows(page, "Idle")
            avatar.loudness = LOUD
            await shows(page, "Talking")

        assert await story(page) == [FIRST]


async def test_a_page_that_comes_into_the_middle_shows_the_one_that_speaks(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    async with (
        own_room(stage) as first,
        avatar_in(stage.livekit, stage.room, NEXT_IDENTITY, mirrored=True),
    ):
        first.loudness = LOUD
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Talking")
        await watch(page)

        await comes_to_show(page, FIRST)
