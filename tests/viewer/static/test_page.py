"""The viewer page in a real browser, with a real avatar in a real LiveKit room."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from livekit import api
from playwright.async_api import BrowserContext, Page, Playwright, Request, expect
from pydantic import SecretStr

from avatar_sessions.contract.states import EndReason, Pose, SessionState
from deploy.local.ports import free_port
from tests.support.browser import AUTOPLAY_AFTER_CLICK, CHROMIUM_ARGUMENTS
from tests.support.scripted_session import ScriptedSession, Stage
from tests.support.speech.stand_in_avatar import avatar_in, viewer_token
from tests.support.viewer_page import (
    LEVEL,
    LOUD,
    SOON_MS,
    identities,
    level_passes,
    open_page,
    room_api,
    shows,
)
from viewer import ViewerAccess, ViewerServer
from viewer.page import CDN_URL, STATIC_FOLDER

PIXELS = """() => {
  const video = document.querySelector('video');
  const canvas = new OffscreenCanvas(4, 2);
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0, 4, 2);
  return [...context.getImageData(0, 0, 4, 2).data];
}"""


async def test_the_avatar_is_seen_moving(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")

    first = await page.evaluate(PIXELS)
    async with asyncio.timeout(10):
        while (later := await page.evaluate(PIXELS)) == first:
            await asyncio.sleep(0.05)

    assert any(first)
    assert any(later)
    video = page.locator("video")
    assert await video.evaluate("(one) => [one.videoWidth, one.videoHeight]") == [640, 360]
    await expect(page.get_by_text("support-42")).to_be_visible()
    await expect(page.locator("#veil")).to_be_hidden()
    assert await page.title() == "Idle · support-42"


async def test_the_level_meter_and_the_state_follow_the_voice(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")
    assert await page.evaluate(LEVEL) < -50

    stage.avatar.loudness = LOUD
    await shows(page, "Talking")
    await level_passes(page, -25)
    # The bars are drawn after the level is measured, and follow it smoothly.
    await page.wait_for_function(
        "() => Math.max(...[...document.querySelectorAll('.meter i')]"
        ".map((bar) => Number(bar.style.getPropertyValue('--h')))) > 0.5"
    )
    stage.avatar.loudness = 0.0

    await shows(page, "Idle")
    stage.session.becomes(SessionState.LIVE, pose=Pose.LISTENING)
    await shows(page, "Listening")

    stage.avatar.loudness = LOUD
    await shows(page, "Talking")
    stage.avatar.loudness = 0.0
    await shows(page, "Listening")


async def test_the_page_waits_for_a_session_that_is_starting(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    stage.session.becomes(SessionState.STARTING)
    page = await open_page(tab, viewer.invite("support-42"))

    await shows(page, "Waiting for the avatar")
    await expect(page.get_by_text("The session is starting.")).to_be_visible()
    stage.session.becomes(SessionState.CONNECTING)
    await shows(page, "Waiting for the avatar")
    stage.session.becomes(SessionState.LIVE)

    await shows(page, "Idle")


@pytest.mark.parametrize(
    ("state", "reason", "title", "sentence"),
    [
        (
            SessionState.ENDED,
            EndReason.IDLE_TIMEOUT,
            "Session ended",
            "The session ended because the avatar was idle for too long.",
        ),
        (
            SessionState.FAILED,
            EndReason.CONNECTION_FAILED,
            "Session failed",
            "The connection to the avatar was lost and could not be restored.",
        ),
    ],
)
async def test_the_page_shows_why_the_session_ended(
    stage: Stage,
    viewer: ViewerServer,
    tab: BrowserContext,
    state: SessionState,
    reason: EndReason,
    title: str,
    sentence: str,
) -> None:
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")

    stage.session.becomes(SessionState.ENDING)
    await shows(page, "Ending")
    stage.session.becomes(state, end_reason=reason, detail="The media server went away.")

    await shows(page, title)
    await expect(page.get_by_role("heading", name=title)).to_be_visible()
    await expect(page.get_by_text(sentence)).to_be_visible()
    await expect(page.get_by_text("The media server went away.")).to_be_visible()
    await expect(page.get_by_text(re.compile(r"was live for \d:\d\d"))).to_be_visible()
    async with room_api(stage.livekit) as rooms, asyncio.timeout(10):
        while "viewer" in await identities(rooms, stage.room):
            await asyncio.sleep(0.1)


async def test_a_reload_shows_the_avatar_again(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")

    await page.reload()

    await shows(page, "Idle")
    assert "#" not in page.url


async def test_a_link_opens_once_and_says_so_the_second_time(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext, playwright: Playwright
) -> None:
    link = viewer.invite("support-42")
    first = await open_page(tab, link)
    await shows(first, "Idle")
    assert tab.browser is not None
    stranger = await tab.browser.new_context()

    page = await open_page(stranger, link)

    await shows(page, "No access")
    await expect(page.get_by_text("This link has already been used.")).to_be_visible()
    await stranger.close()


async def test_without_a_code_the_page_says_what_it_needs(
    viewer: ViewerServer, tab: BrowserContext
) -> None:
    link, _, _ = viewer.invite("support-42").partition("#")

    for address in (viewer.url, link):
        page = await open_page(tab, address)
        await shows(page, "No access")
        await expect(page.get_by_text("This page needs an invitation")).to_be_visible()


async def test_an_expired_link_says_so(session: ScriptedSession, tab: BrowserContext) -> None:
    async with ViewerServer(session, port=0, invitation_ttl_s=0) as viewer:
        page = await open_page(tab, viewer.invite("support-42"))

        await shows(page, "No access")
        await expect(page.get_by_text("This link has expired.")).to_be_visible()
        await page.close()


async def test_the_token_stays_out_of_addresses_the_console_and_the_page(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """Only LiveKit's own signalling carries the token in an address: its WebSocket's."""
    page = await tab.new_page()
    seen: list[str] = []

    def note_request(request: Request) -> None:
        seen.append(request.url)
        seen.extend(request.headers.values())

    page.on("request", note_request)
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    link = viewer.invite("support-42")
    code = link.partition("#")[2]

    await page.goto(link)
    await shows(page, "Idle")
    stage.session.becomes(SessionState.ENDED, end_reason=EndReason.REQUESTED)
    await shows(page, "Session ended")

    storage = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    seen += [page.url, await page.content(), await page.evaluate(storage)]
    (token,) = stage.tokens
    secrets = (token.get_secret_value(), code)
    leaks = sum(secret in text for secret in secrets for text in seen)
    assert leaks == 0, "a token or a code was seen (and is not shown here, either)"
    assert all(url.startswith(stage.livekit.url) for url in sockets)


async def test_an_unreachable_livekit_server_is_reported_and_gets_no_token(
    session: ScriptedSession, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """Browsers log a failing WebSocket's whole address: the page probes the server first."""
    session.granted = ViewerAccess(f"ws://127.0.0.1:{free_port()}", SecretStr("a-secret-token"))
    page = await tab.new_page()
    console: list[str] = []
    page.on("console", lambda message: console.append(message.text))

    await page.goto(viewer.invite("support-42"))

    await expect(page.get_by_text("The LiveKit server cannot be reached")).to_be_visible()
    assert len(session.keys) >= 1
    assert not [text for text in console if "a-secret-token" in text]


async def test_a_removed_viewer_rejoins_with_fresh_access(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")

    stage.session.granted = ViewerAccess(
        stage.livekit.url, viewer_token(stage.livekit, stage.room, "viewer-2")
    )
    async with room_api(stage.livekit) as rooms:
        await rooms.room.remove_participant(
            api.RoomParticipantIdentity(room=stage.room, identity="viewer")
        )
        await shows(page, "Reconnecting")
        await shows(page, "Idle")

        assert "viewer-2" in await identities(rooms, stage.room)
    assert stage.session.keys == ["support-42", "support-42"]


async def test_an_avatar_that_leaves_and_rejoins_is_shown_again(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")

    await stage.avatar.room.disconnect()
    await shows(page, "Reconnecting")
    await shows(page, "Waiting for the avatar")
    stage.session.becomes(SessionState.RECOVERING)
    await shows(page, "Reconnecting")
    async with avatar_in(stage.livekit, stage.room, "heygen") as again:
        again.loudness = LOUD
        stage.session.becomes(SessionState.LIVE)

        await shows(page, "Talking")


async def test_a_hidden_page_receives_audio_and_no_video(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")
    hide = """(hidden) => {
      Object.defineProperty(document, 'hidden', { get: () => hidden, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }"""

    await page.evaluate(hide, True)
    async with asyncio.timeout(SOON_MS / 1000):
        while await frames_in_a_second(page):
            pass
    stage.avatar.loudness = LOUD
    await level_passes(page, -25)
    await page.evaluate(hide, False)

    async with asyncio.timeout(SOON_MS / 1000):
        while await frames_in_a_second(page) < 5:
            pass
    await shows(page, "Talking")


async def frames_in_a_second(page: Page) -> int:
    frames = "() => document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames"
    before: int = await page.evaluate(frames)
    await asyncio.sleep(1)
    after: int = await page.evaluate(frames)
    return after - before


async def test_another_publisher_in_a_hosted_room_is_not_the_avatar(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """In a hosted room the avatar's identity is `heygen`."""
    async with avatar_in(stage.livekit, stage.room, "agent") as agent:
        agent.loudness = LOUD
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")

        stage.avatar.loudness = LOUD
        await shows(page, "Talking")


async def test_a_second_window_with_the_same_access_replaces_the_first_and_can_be_replaced(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    first = await open_page(tab, viewer.invite("support-42"))
    await shows(first, "Idle")

    second = await open_page(tab, viewer.invite("support-42"))

    await shows(second, "Idle")
    await shows(first, "Opened elsewhere")
    await first.get_by_role("button", name="Watch here instead").click()
    await shows(first, "Idle")
    await shows(second, "Opened elsewhere")


@pytest_asyncio.fixture
async def tab_without_autoplay(
    playwright: Playwright, chromium: Path, livekit_client: None
) -> AsyncIterator[BrowserContext]:
    """A browser with its default autoplay policy: no sound before a click."""
    browser = await playwright.chromium.launch(
        executable_path=chromium, args=[*CHROMIUM_ARGUMENTS, AUTOPLAY_AFTER_CLICK]
    )
    yield await browser.new_context()
    await browser.close()


async def test_a_click_starts_sound_that_the_browser_blocked(
    stage: Stage, viewer: ViewerServer, tab_without_autoplay: BrowserContext
) -> None:
    """The gradient behind the controls lay over the button and caught the click."""
    stage.avatar.loudness = LOUD
    page = await open_page(tab_without_autoplay, viewer.invite("support-42"))
    stage.session.becomes(SessionState.LIVE, speaking=True)
    await shows(page, "Talking")  # by the status: audio cannot be measured before the click
    button = page.get_by_role("button", name="Click for sound")
    await expect(button).to_be_visible()
    assert await page.evaluate(LEVEL) == -60

    await button.click()

    await level_passes(page, -25)
    await expect(button).to_be_hidden()
    playing = "() => { const a = document.querySelector('audio'); return !a.paused && !a.muted; }"
    assert await page.evaluate(playing)


async def test_the_voice_can_be_muted(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")
    voice = page.locator("audio")

    await page.get_by_role("button", name="Mute", exact=True).click()
    assert await voice.evaluate("(one) => one.muted")
    unmute = page.get_by_role("button", name="Unmute")
    await expect(unmute).to_have_attribute("aria-pressed", "true")
    await unmute.click()
    assert not await voice.evaluate("(one) => one.muted")


@pytest.mark.parametrize("tampered", [False, True])
async def test_the_page_runs_only_the_pinned_library_from_a_cdn(
    stage: Stage, session: ScriptedSession, tab: BrowserContext, tmp_path: Path, tampered: bool
) -> None:
    """The browser intercepts requests to the CDN and answers with npm's file, or a changed one."""
    web = tmp_path / "web"
    shutil.copytree(STATIC_FOLDER, web, ignore=shutil.ignore_patterns("node_modules"))
    installed = (
        STATIC_FOLDER / "node_modules" / "livekit-client" / "dist" / "livekit-client.esm.mjs"
    )
    library = installed.read_bytes() + (b"// not as it was" if tampered else b"")
    headers = {"access-control-allow-origin": "*", "content-type": "text/javascript"}
    await tab.route(
        f"{CDN_URL}/**", lambda route: route.fulfill(status=200, headers=headers, body=library)
    )

    async with ViewerServer(session, port=0, static_folder=web) as viewer:
        page = await open_page(tab, viewer.invite("support-42"))

        if tampered:
            sentence = "The part of the page that plays video could not be loaded."
            await expect(page.get_by_text(sentence)).to_be_visible()
        else:
            await shows(page, "Idle")
        await page.close()


async def test_avatar_room_works_on_any_page_with_two_elements(
    stage: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    """The documentation's example for a page of your own."""
    page = await open_page(tab, viewer.url)
    (token,) = stage.tokens

    width = await page.evaluate(
        """async ([livekitUrl, token]) => {
          const { AvatarRoom } = await import('/static/avatar-room.js');
          const video = Object.assign(document.createElement('video'), { muted: true });
          const audio = document.createElement('audio');
          document.body.replaceChildren(video, audio);
          const room = new AvatarRoom({ video, audio });
          const frame = new Promise((seen) => video.requestVideoFrameCallback(seen));
          await room.join(livekitUrl, token);
          await frame;
          const { videoWidth } = video;
          await room.leave();
          return room.link === 'none' ? videoWidth : room.link;
        }""",
        [stage.livekit.url, token.get_secret_value()],
    )

    assert width == 640


class SilentSpeaker:
    """A `ViewerSpeaker` that speaks nothing, so that the page shows its input field."""

    async def say(self, session_key: str, text: str) -> None: ...


@pytest.mark.parametrize("speaker", [None, SilentSpeaker()], ids=["watch only", "with input field"])
async def test_the_page_fits_every_window(
    stage: Stage, tab: BrowserContext, speaker: SilentSpeaker | None
) -> None:
    token = viewer_token(stage.livekit, stage.room, may_speak=speaker is not None)
    stage.session.granted = ViewerAccess(stage.livekit.url, token)
    async with ViewerServer(stage.session, speaker=speaker, port=0) as viewer:
        page = await open_page(tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await expect(page.locator("#microphone")).to_be_visible(visible=speaker is not None)
        await fits_every_window(page)
        await page.close()


async def fits_every_window(page: Page) -> None:
    """Nothing overflows, and every button is at least 44 px, in windows of four sizes."""
    for width, height in ((390, 844), (844, 390), (1280, 800), (320, 568)):
        await page.set_viewport_size({"width": width, "height": height})
        overflow = await page.evaluate(
            "() => [document.documentElement.scrollWidth - innerWidth,"
            " document.documentElement.scrollHeight - innerHeight]"
        )
        small = await page.evaluate(
            "() => [...document.querySelectorAll('button')].filter((one) => one.offsetWidth)"
            ".filter((one) => one.offsetWidth < 44 || one.offsetHeight < 44).length"
        )

        assert max(overflow) <= 0, (width, height)
        assert small == 0, (width, height)


async def test_reduced_motion_disables_animations(
    viewer: ViewerServer, session: ScriptedSession, tab: BrowserContext
) -> None:
    session.becomes(SessionState.STARTING)
    page = await tab.new_page()
    await page.emulate_media(reduced_motion="reduce")

    await page.goto(viewer.invite("support-42"))
    await shows(page, "Waiting for the avatar")

    assert await page.evaluate("() => document.getAnimations().length") == 0


LIVE: dict[str, Any] = {"state": "LIVE", "pose": None}

VIEWS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"link": "none", "status": None}, "connecting"),
    ({"link": "none", "status": {"state": "MINTING"}}, "waiting"),
    ({"link": "joining", "status": LIVE}, "connecting"),
    ({"link": "joining", "status": LIVE, "seen": True}, "recovering"),
    ({"link": "joined", "status": LIVE}, "waiting"),
    ({"link": "joined", "status": LIVE, "picture": True}, "idle"),
    ({"link": "joined", "status": LIVE, "picture": True, "audible": True}, "talking"),
    (
        {"link": "joined", "status": {"state": "LIVE", "pose": "listening"}, "picture": True},
        "listening",
    ),
    (
        {
            "link": "joined",
            "status": {"state": "LIVE", "pose": "listening"},
            "picture": True,
            "audible": True,
        },
        "talking",
    ),
    ({"link": "joined", "status": {"state": "LIVE", "pose": "idle"}, "picture": True}, "idle"),
    ({"link": "reconnecting", "status": LIVE, "picture": True}, "recovering"),
    ({"link": "joined", "status": LIVE, "seen": True}, "waiting"),
    ({"link": "joined", "status": LIVE, "seen": True, "held": True}, "recovering"),
    ({"link": "joined", "status": {"state": "RECOVERING"}, "picture": True}, "recovering"),
    ({"link": "joined", "status": {"state": "RECOVERING"}, "seen": True}, "recovering"),
    ({"link": "joined", "status": {"state": "ENDING"}, "picture": True}, "ending"),
    ({"link": "joined", "status": {"state": "ENDED"}, "picture": True}, "ended"),
    ({"link": "none", "status": {"state": "FAILED"}}, "failed"),
    ({"link": "elsewhere", "status": LIVE}, "elsewhere"),
    ({"link": "elsewhere", "status": {"state": "ENDED"}}, "ended"),
    ({"link": "refused", "status": None}, "refused"),
)


async def test_the_view_is_derived_from_link_status_and_picture(
    viewer: ViewerServer, tab: BrowserContext
) -> None:
    page = await open_page(tab, viewer.url)
    unknown = {"picture": False, "seen": False, "audible": False}

    views = await page.evaluate(
        "async (all) => all.map((await import('/static/state.js')).viewOf)",
        [{**unknown, **known} for known, _ in VIEWS],
    )

    assert views == [view for _, view in VIEWS]
