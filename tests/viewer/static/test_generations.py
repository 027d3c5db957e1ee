"""A session moves to its next generation (LiveAvatar session), and the page follows.

A hosted room ends with its LiveAvatar session, and the next one has another room. In a room on our
own LiveKit the next avatar joins while the old one is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from livekit import api
from playwright.async_api import BrowserContext, Page, expect

from avatar_sessions.contract.states import SessionState
from deploy.local.livekit import LiveKitServer
from tests.support.scripted_session import Stage
from tests.support.speech.stand_in_avatar import StandInAvatar, avatar_in
from tests.support.viewer_page import (
    LOUD,
    SOON_MS,
    delete_room,
    identities,
    level_passes,
    next_generation,
    open_page,
    room_api,
    shows,
)
from tests.support.waiting import until
from viewer import ViewerServer

FIRST, SECOND = "first", "second"
NEXT_IDENTITY: Final = "avatar-generation-2"

# Records what the page shows, frame by frame: which avatar, black, or the card that covers it.
RECORD = """() => {
  const [video, last] = ['avatar', 'last'].map((id) => document.getElementById(id));
  const context = new OffscreenCanvas(8, 2).getContext('2d', { willReadFrequently: true });
  const who = () => {
    context.clearRect(0, 0, 8, 2);
    context.drawImage(last.style.visibility === 'hidden' ? video : last, 0, 0, 8, 2);
    const { data } = context.getImageData(0, 0, 8, 2);
    if (data[0] + data[2] < 100) return 'black'; // red and blue add up to 255 in every picture
    return data[1] < data[7 * 4 + 1] ? 'first' : 'second';
  };
  window.shown = [];
  const look = () => {
    const seen = document.body.dataset.covered === 'true' ? 'a card' : who();
    if (window.shown.at(-1) !== seen) window.shown.push(seen);
    requestAnimationFrame(look);
  };
  look();
}"""

LAST_PICTURE = "document.getElementById('last').style.visibility"


async def record(page: Page) -> None:
    """Have the page record what it shows from now on."""
    await page.evaluate(RECORD)


async def recorded(page: Page) -> list[str]:
    """What the page has shown, in order."""
    shown: list[str] = await page.evaluate("() => window.shown")
    return shown


async def comes_to_show(page: Page, who: str) -> None:
    await page.wait_for_function("(who) => window.shown.at(-1) === who", arg=who, timeout=SOON_MS)


async def exists(livekit: LiveKitServer, room: str) -> bool:
    async with room_api(livekit) as rooms:
        return bool((await rooms.room.list_rooms(api.ListRoomsRequest(names=[room]))).rooms)


async def viewer_left(livekit: LiveKitServer, room: str) -> None:
    """Wait until the viewer has left the room."""
    async with room_api(livekit) as rooms, asyncio.timeout(SOON_MS / 1000):
        while "viewer" in await identities(rooms, room):
            await asyncio.sleep(0.1)


# ------------------------------------------------------------ rooms that LiveAvatar hosts


async def test_the_page_follows_into_the_room_of_the_next_generation(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """The old room is deleted with its LiveAvatar session, at the moment of the switch."""
    async with next_generation(stage) as following:
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await record(page)
        following.avatar.loudness = LOUD

        following.switch()
        await delete_room(stage.livekit, stage.room)

        await comes_to_show(page, SECOND)
        await shows(page, "Talking")
        await level_passes(page, -25)
        assert await recorded(page) == [FIRST, SECOND]
        assert stage.session.keys == ["support-42", "support-42"]
        assert not await exists(stage.livekit, stage.room)


async def test_the_page_leaves_an_old_room_that_still_exists_without_a_gap(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """The page joins the next room before it leaves the old one, and never shows Reconnecting."""
    async with next_generation(stage) as following:
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await record(page)
        await page.evaluate(
            """() => {
              window.states = [];
              const state = document.getElementById('state');
              const note = () => window.states.push(state.textContent);
              new MutationObserver(note).observe(state, { childList: true });
            }"""
        )

        following.switch()

        await comes_to_show(page, SECOND)
        await viewer_left(stage.livekit, stage.room)
        following.avatar.loudness = LOUD
        await shows(page, "Talking")
        assert await recorded(page) == [FIRST, SECOND]
        assert await page.evaluate("() => window.states") == ["Talking"]


async def test_the_last_picture_stays_until_the_next_generation_has_one(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """The room is deleted before the status changes, and its access is worthless from then on.

    A page that used it again had LiveKit's server create the room anew, and stayed there alone.
    """
    async with next_generation(stage) as following:
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await record(page)

        await delete_room(stage.livekit, stage.room)
        await shows(page, "Reconnecting")
        await until(lambda: len(stage.session.keys) > 1)
        stage.session.becomes(SessionState.RECOVERING)
        asked = len(stage.session.keys)
        stage.session.becomes(SessionState.RECOVERING, generation=2)
        await asyncio.sleep(2)  # LiveAvatar takes a while to start the next one
        assert len(stage.session.keys) == asked
        assert not await exists(stage.livekit, stage.room)
        following.switch()

        await comes_to_show(page, SECOND)
        await shows(page, "Idle")
        assert await recorded(page) == [FIRST, SECOND]


async def test_the_page_explains_a_generation_that_is_never_replaced(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    async with next_generation(stage):
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        stage.session.becomes(SessionState.RECOVERING)
        await delete_room(stage.livekit, stage.room)
        await shows(page, "Reconnecting")
        await expect(page.locator("#veil")).to_be_hidden()

        await expect(page.get_by_text("The connection is being restored.")).to_be_visible(
            timeout=2 * SOON_MS
        )


async def test_a_muted_page_stays_muted_in_the_next_room(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """livekit-client unmutes the element that it attaches a track to: each rejoin unmuted."""
    async with next_generation(stage) as following:
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await page.get_by_role("button", name="Mute", exact=True).click()
        await record(page)

        following.switch()

        await comes_to_show(page, SECOND)
        assert await page.locator("audio").evaluate("(one) => one.muted && one.srcObject !== null")
        await expect(page.get_by_role("button", name="Unmute")).to_be_visible()


# ------------------------------------------------------------ rooms on our own LiveKit


@contextlib.asynccontextmanager
async def own_room(stage: Stage) -> AsyncIterator[StandInAvatar]:
    """The first avatar, with the identity that it has in a room on our own LiveKit."""
    await stage.avatar.room.disconnect()
    stage.session.becomes(SessionState.LIVE, generation=1)
    async with avatar_in(stage.livekit, stage.room, "avatar") as avatar:
        yield avatar


async def playing_on(page: Page) -> dict[str, Any]:
    """How many elements and audio tracks the page plays."""
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
async def test_the_next_avatar_is_not_shown_before_the_first_one_is_done(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext, how: str
) -> None:
    """It is shown when the first one leaves, or when it speaks: whichever comes first."""
    async with contextlib.AsyncExitStack() as later, contextlib.AsyncExitStack() as earlier:
        first = await earlier.enter_async_context(own_room(stage))
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await record(page)
        second = await later.enter_async_context(
            avatar_in(stage.livekit, stage.room, NEXT_IDENTITY, mirrored=True)
        )
        await page.wait_for_function(f"() => {LAST_PICTURE} !== 'hidden'")

        first.loudness = LOUD
        await shows(page, "Talking")
        await level_passes(page, -25)
        first.loudness = 0.0
        await shows(page, "Idle")
        assert await recorded(page) == [FIRST]
        stage.session.becomes(SessionState.LIVE, generation=2)
        if how == "leaves":
            await earlier.aclose()
            await comes_to_show(page, SECOND)
        second.loudness = LOUD

        await shows(page, "Talking")
        await level_passes(page, -25)
        await comes_to_show(page, SECOND)
        assert await playing_on(page) == {"elements": 1, "tracks": 1}
        await earlier.aclose()
        await page.wait_for_function(f"() => {LAST_PICTURE} === 'hidden'")
        assert await recorded(page) == [FIRST, SECOND]
        assert stage.session.keys == ["support-42"]


async def test_a_person_with_a_camera_is_not_the_next_avatar(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    async with own_room(stage) as avatar:
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await record(page)
        async with avatar_in(stage.livekit, stage.room, "ada", mirrored=True) as person:
            person.loudness = LOUD
            await asyncio.sleep(1)  # long enough to be detected
            await shows(page, "Idle")
            avatar.loudness = LOUD
            await shows(page, "Talking")

        assert await recorded(page) == [FIRST]


async def test_a_page_that_joins_during_a_rotation_shows_the_avatar_that_speaks(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    async with (
        own_room(stage) as first,
        avatar_in(stage.livekit, stage.room, NEXT_IDENTITY, mirrored=True),
    ):
        first.loudness = LOUD
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Talking")
        await record(page)

        await comes_to_show(page, FIRST)
