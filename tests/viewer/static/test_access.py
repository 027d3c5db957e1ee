"""The page polls again after lost, late and failed responses, and rejoins without a picture."""

from __future__ import annotations

import asyncio

from livekit import api
from playwright.async_api import BrowserContext, Route, expect

from avatar_sessions.contract.states import SessionState
from tests.support.scripted_session import ScriptedSession, Stage
from tests.support.viewer_page import SOON_MS, open_page, room_api, shows
from viewer import ViewerServer


async def test_a_late_response_does_not_hide_that_the_session_is_live(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """On a loaded machine a page stayed at "Waiting for the avatar" forever.

    It had requested access while the session was CONNECTING. The session became LIVE, a stream of
    events said so, and then the response to the earlier request arrived: the page went back to
    CONNECTING and waited for a change that had been reported already.
    """
    stage.session.becomes(SessionState.STARTING)
    page = await open_page(tab, viewer.invite("support-42"))
    await expect(page.get_by_text("The session is starting.")).to_be_visible()
    responded_while_connecting, overtaken = asyncio.Event(), asyncio.Event()

    async def hold_the_response(route: Route) -> None:
        response = await route.fetch()
        responded_while_connecting.set()
        await overtaken.wait()
        await route.fulfill(response=response)

    await page.route("**/access", hold_the_response, times=1)

    async with asyncio.timeout(SOON_MS / 1000):
        stage.session.becomes(SessionState.CONNECTING)
        await responded_while_connecting.wait()
    stage.session.becomes(SessionState.LIVE)
    await shows(page, "Connecting")
    overtaken.set()

    await shows(page, "Idle")


async def test_the_page_polls_again_after_lost_responses(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """A stream of events that was refused once was never opened again: the state stayed old."""
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


async def test_eight_pages_in_one_browser_all_learn_that_the_session_is_live(
    session: ScriptedSession, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """A browser opens six connections to a server: with six streams no page could request access.

    There is no LiveKit server here, so the pages get as far as saying so.
    """
    session.becomes(SessionState.STARTING)
    pages = [await open_page(tab, viewer.invite("support-42")) for _ in range(8)]
    for page in pages:
        await shows(page, "Waiting for the avatar")

    session.becomes(SessionState.LIVE)

    for page in pages:
        await expect(page.get_by_text("The LiveKit server cannot be reached")).to_be_visible()


async def test_a_page_without_a_picture_joins_the_room_again(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """The server drops the page's subscription, and no event reports it."""
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")
    tracks = [one.sid for one in stage.avatar.room.local_participant.track_publications.values()]

    async with room_api(stage.livekit) as rooms:
        await rooms.room.update_subscriptions(
            api.UpdateSubscriptionsRequest(
                room=stage.room, identity="viewer", track_sids=tracks, subscribe=False
            )
        )
    await shows(page, "Waiting for the avatar")

    await shows(page, "Idle")
    assert stage.session.keys == ["support-42", "support-42"]
