"""Whatever is lost between the page and the rest of the world, the page does not stay waiting."""

from __future__ import annotations

import asyncio

from livekit import api
from playwright.async_api import BrowserContext, Route, expect

from avatar_sessions.contract.states import SessionState
from tests.support.page import SOON_MS, open_page, shows
from tests.viewer.conftest import PlayedSession, Stage
from viewer import ViewerServer


async def test_an_old_answer_that_comes_late_does_not_hide_that_the_session_is_live(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """On a loaded machine a page stayed at "Waiting for the avatar" for good.

    It had asked for access while the session was CONNECTING. The session became LIVE, a stream of
    events told the page so, and then the answer of before arrived: the page went back to
    CONNECTING and waited for a change that had been told already.
    """
    stage.session.becomes(SessionState.STARTING)
    page = await open_page(tab, viewer.invite("support-42"))
    await expect(page.get_by_text("The session is starting.")).to_be_visible()
    answered_while_connecting, overtaken = asyncio.Event(), asyncio.Event()

    async def hold_the_answer(route: Route) -> None:
        response = await route.fetch()
        answered_while_connecting.set()
        await overtaken.wait()
        await route.fulfill(response=response)

    await page.route("**/access", hold_the_answer, times=1)

    async with asyncio.timeout(SOON_MS / 1000):
        stage.session.becomes(SessionState.CONNECTING)
        await answered_while_connecting.wait()
    stage.session.becomes(SessionState.LIVE)
    await shows(page, "Connecting")
    overtaken.set()

    await shows(page, "Idle")


async def test_answers_that_are_lost_are_asked_for_again(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """A stream of events that was refused once was never opened again: no news for good."""
    stage.session.becomes(SessionState.STARTING)
    page = await tab.new_page()
    lost: list[str] = []

    async def lose(route: Route) -> None:
        lost.append(route.request.url)
        if len(lost) % 2:
            await route.abort()
        else:
            await route.fulfill(status=502, body="<html>no JSON, either</html>")

    await page.route("**/status", lose, times=3)
    await page.goto(viewer.invite("support-42"))
    await shows(page, "Waiting for the avatar")
    async with asyncio.timeout(SOON_MS / 1000):
        while len(lost) < 2:
            await asyncio.sleep(0.05)
    stage.session.becomes(SessionState.LIVE)

    await shows(page, "Idle")


async def test_eight_pages_in_one_browser_all_hear_that_the_session_is_live(
    session: PlayedSession, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """A browser opens six connections to a server: six streams, and no page could ask for access.

    The room is not there, which is as far as a page can get without one.
    """
    session.becomes(SessionState.STARTING)
    pages = [await open_page(tab, viewer.invite("support-42")) for _ in range(8)]
    for page in pages:
        await shows(page, "Waiting for the avatar")

    session.becomes(SessionState.LIVE)

    for page in pages:
        await expect(page.get_by_text("The LiveKit server cannot be reached")).to_be_visible()


async def test_a_picture_that_is_lost_without_a_word_is_fetched_by_joining_again(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """The server forgets that the page subscribed: nothing on the wire says that this is wrong."""
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")
    tracks = [one.sid for one in stage.avatar.room.local_participant.track_publications.values()]

    async with api.LiveKitAPI(
        stage.livekit.url, stage.livekit.api_key, stage.livekit.api_secret
    ) as rooms:
        await rooms.room.update_subscriptions(
            api.UpdateSubscriptionsRequest(
                room=stage.room, identity="viewer", track_sids=tracks, subscribe=False
            )
        )
    await shows(page, "Waiting for the avatar")

    await shows(page, "Idle")
    assert stage.session.keys == ["support-42", "support-42"]
