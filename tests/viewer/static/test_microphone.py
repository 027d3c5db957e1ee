"""The page's microphone: offered, permitted, published, released."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
from livekit import api
from playwright.async_api import Browser, BrowserContext, Page, Playwright, expect

from avatar_sessions.contract.states import EndReason, SessionState
from demo.subscriber import Subscriber
from tests.support.browser import (
    DENY_PERMISSIONS,
    GRANT_PERMISSIONS,
    browser_with_microphone,
)
from tests.support.scripted_session import Stage
from tests.support.speech.stand_in_avatar import viewer_token
from tests.support.viewer_page import (
    SOON_MS,
    delete_room,
    next_generation,
    open_page,
    room_api,
    shows,
)
from viewer import ViewerAccess, ViewerServer

SAMPLE_RATE_HZ = 48_000
# Keeps the stream: the browser's recording indicator is on while one of its tracks is live.
KEEP_STREAM = """() => {
  const devices = navigator.mediaDevices;
  const ask = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (wanted) => {
    await window.permission;
    return (window.stream = await ask(wanted));
  };
}"""
OWN_LEVEL = "() => Number(document.querySelector('#own-level').ariaValueNow)"


@pytest.fixture(scope="session")
def humming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a swelling hum, which noise suppression takes for a voice."""
    seconds = np.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tones = sum(np.sin(2 * np.pi * 150 * n * seconds) / n for n in range(1, 12))
    swell = np.clip(np.sin(2 * np.pi * 3 * seconds), 0, 1)
    file = tmp_path_factory.mktemp("microphone") / "humming.wav"
    soundfile.write(file, 0.25 * tones * swell, SAMPLE_RATE_HZ, subtype="PCM_16")
    return file


@pytest_asyncio.fixture(scope="session")
async def microphone_browser(
    playwright: Playwright, chromium: Path, humming: Path, livekit_client: None
) -> AsyncIterator[Browser]:
    """A browser with a microphone that every page may use."""
    async with browser_with_microphone(playwright, chromium, humming, GRANT_PERMISSIONS) as browser:
        yield browser


@pytest_asyncio.fixture
async def microphone_tab(microphone_browser: Browser) -> AsyncIterator[BrowserContext]:
    """A fresh profile of that browser."""
    context = await microphone_browser.new_context(viewport={"width": 1280, "height": 800})
    yield context
    await context.close()


@pytest.fixture
def speaking_allowed(stage: Stage) -> Stage:
    """The viewer may publish a microphone, as in rooms on our own LiveKit."""
    token = viewer_token(stage.livekit, stage.room, may_speak=True)
    stage.session.granted = ViewerAccess(stage.livekit.url, token)
    return stage


def subscriber(stage: Stage) -> Subscriber:
    """Another participant, who measures what is audible in the room."""
    token = viewer_token(stage.livekit, stage.room, "listener")
    return Subscriber(stage.livekit.url, token.get_secret_value())


async def switch_on(page: Page) -> None:
    await page.get_by_role("button", name="Talk").click()
    await expect(page.get_by_role("button", name="You are heard")).to_be_visible(timeout=SOON_MS)


async def test_the_microphone_is_off_until_the_button_is_clicked(
    speaking_allowed: Stage, viewer: ViewerServer, microphone_tab: BrowserContext
) -> None:
    page = await open_page(microphone_tab, viewer.invite("support-42"))
    await shows(page, "Idle")

    talk = page.get_by_role("button", name="Talk")

    await expect(talk).to_have_attribute("aria-pressed", "false")
    await expect(page.get_by_role("meter", name="Your voice")).to_be_hidden()
    async with subscriber(speaking_allowed) as listener:
        assert await listener.until_audible(1) is None


async def test_speech_is_audible_in_the_room_and_moves_the_meter(
    speaking_allowed: Stage, viewer: ViewerServer, microphone_tab: BrowserContext
) -> None:
    page = await open_page(microphone_tab, viewer.invite("support-42"))
    await shows(page, "Idle")

    async with subscriber(speaking_allowed) as listener:
        await switch_on(page)

        assert await listener.until_audible(SOON_MS / 1000) is not None
    await page.wait_for_function(f"() => ({OWN_LEVEL})() > -40")
    await shows(page, "Idle")  # the microphone moves neither the avatar's meter nor its state


async def test_switching_off_releases_the_microphone_and_unpublishes_it(
    speaking_allowed: Stage, viewer: ViewerServer, microphone_tab: BrowserContext
) -> None:
    page = await open_page(microphone_tab, viewer.invite("support-42"))
    await shows(page, "Idle")
    await page.evaluate(KEEP_STREAM)
    await switch_on(page)
    assert await page.evaluate("() => window.stream.getAudioTracks()[0].readyState") == "live"

    await page.get_by_role("button", name="You are heard").click()

    await expect(page.get_by_role("button", name="Talk")).to_be_visible()
    assert await page.evaluate("() => window.stream.getAudioTracks()[0].readyState") == "ended"
    async with room_api(speaking_allowed.livekit) as rooms, asyncio.timeout(SOON_MS / 1000):
        while await microphones(rooms, speaking_allowed.room, "viewer"):
            await asyncio.sleep(0.1)


async def microphones(rooms: api.LiveKitAPI, room: str, identity: str) -> int:
    """How many tracks the participant publishes."""
    listed = await rooms.room.list_participants(api.ListParticipantsRequest(room=room))
    return sum(len(one.tracks) for one in listed.participants if one.identity == identity)


async def test_echo_and_noise_are_cancelled(
    speaking_allowed: Stage, viewer: ViewerServer, microphone_tab: BrowserContext
) -> None:
    """Without echo cancellation the avatar would hear itself from the loudspeaker."""
    page = await open_page(microphone_tab, viewer.invite("support-42"))
    await shows(page, "Idle")
    await page.evaluate(KEEP_STREAM)

    await switch_on(page)

    settings = await page.evaluate("() => window.stream.getAudioTracks()[0].getSettings()")
    cleaning = ("echoCancellation", "noiseSuppression", "autoGainControl")
    assert [settings[name] for name in cleaning] == [True, True, True]


async def test_a_removed_viewer_publishes_again_without_a_click(
    speaking_allowed: Stage, viewer: ViewerServer, microphone_tab: BrowserContext
) -> None:
    stage = speaking_allowed
    page = await open_page(microphone_tab, viewer.invite("support-42"))
    await shows(page, "Idle")
    await switch_on(page)

    stage.session.granted = ViewerAccess(
        stage.livekit.url, viewer_token(stage.livekit, stage.room, "viewer-2", may_speak=True)
    )
    async with room_api(stage.livekit) as rooms:
        await rooms.room.remove_participant(
            api.RoomParticipantIdentity(room=stage.room, identity="viewer")
        )
        async with asyncio.timeout(SOON_MS / 1000):
            while not await microphones(rooms, stage.room, "viewer-2"):
                await asyncio.sleep(0.1)
    async with subscriber(stage) as listener:
        assert await listener.until_audible(SOON_MS / 1000) is not None
    await expect(page.get_by_role("button", name="You are heard")).to_be_visible(timeout=SOON_MS)


@pytest.mark.parametrize("old_room", ["deleted", "kept"])
async def test_the_microphone_is_published_in_the_next_generations_room_without_a_click(
    stage: Stage, viewer: ViewerServer, microphone_tab: BrowserContext, old_room: str
) -> None:
    async with next_generation(stage, may_speak=True) as following:
        page = await open_page(microphone_tab, viewer.invite("support-42"))
        await shows(page, "Idle")
        await page.evaluate(KEEP_STREAM)
        await switch_on(page)
        token = viewer_token(stage.livekit, following.room, "listener")
        async with Subscriber(stage.livekit.url, token.get_secret_value()) as listener:
            following.switch()
            if old_room == "deleted":
                await delete_room(stage.livekit, stage.room)

            async with room_api(stage.livekit) as rooms, asyncio.timeout(SOON_MS / 1000):
                while not await microphones(rooms, following.room, "viewer"):
                    await asyncio.sleep(0.1)
            assert await listener.until_audible(SOON_MS / 1000) is not None
        await expect(page.get_by_role("button", name="You are heard")).to_be_visible()
        assert await page.evaluate("() => window.stream.getAudioTracks()[0].readyState") == "live"


async def test_the_end_of_the_session_releases_the_microphone(
    speaking_allowed: Stage, viewer: ViewerServer, microphone_tab: BrowserContext
) -> None:
    page = await open_page(microphone_tab, viewer.invite("support-42"))
    await shows(page, "Idle")
    await page.evaluate(KEEP_STREAM)
    await switch_on(page)

    speaking_allowed.session.becomes(SessionState.ENDED, end_reason=EndReason.REQUESTED)

    await shows(page, "Session ended")
    await page.wait_for_function(
        "() => window.stream.getAudioTracks()[0].readyState === 'ended'", timeout=SOON_MS
    )


async def test_a_page_that_another_window_replaced_releases_the_microphone(
    speaking_allowed: Stage, viewer: ViewerServer, microphone_tab: BrowserContext
) -> None:
    first = await open_page(microphone_tab, viewer.invite("support-42"))
    await shows(first, "Idle")
    await first.evaluate(KEEP_STREAM)
    await switch_on(first)

    second = await open_page(microphone_tab, viewer.invite("support-42"))

    await shows(second, "Idle")
    await shows(first, "Opened elsewhere")
    await first.wait_for_function(
        "() => window.stream.getAudioTracks()[0].readyState === 'ended'", timeout=SOON_MS
    )


async def test_a_viewer_who_may_not_publish_is_not_offered_a_microphone(
    stage: Stage, viewer: ViewerServer, microphone_tab: BrowserContext
) -> None:
    page = await open_page(microphone_tab, viewer.invite("support-42"))
    await shows(page, "Idle")

    await expect(page.locator("#microphone")).to_be_hidden()


async def test_a_revoked_permission_to_publish_is_reported(
    speaking_allowed: Stage, viewer: ViewerServer, microphone_tab: BrowserContext
) -> None:
    """What a hosted room's token allows is not documented: the page tries to publish."""
    stage = speaking_allowed
    page = await open_page(microphone_tab, viewer.invite("support-42"))
    await shows(page, "Idle")
    await switch_on(page)

    async with room_api(stage.livekit) as rooms:
        await rooms.room.update_participant(
            api.UpdateParticipantRequest(
                room=stage.room,
                identity="viewer",
                permission=api.ParticipantPermission(can_publish=False, can_subscribe=True),
            )
        )

    await expect(page.get_by_text("This room does not accept audio from this page.")).to_be_visible(
        timeout=SOON_MS
    )


async def test_a_missing_microphone_is_reported(
    speaking_allowed: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    await tab.grant_permissions(["microphone"])
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")

    await page.get_by_role("button", name="Talk").click()

    await expect(page.get_by_text("No microphone was found.")).to_be_visible()
    await expect(page.get_by_role("button", name="No microphone")).to_be_visible()


async def test_a_denied_permission_is_reported_with_how_to_change_it(
    speaking_allowed: Stage,
    viewer: ViewerServer,
    playwright: Playwright,
    chromium: Path,
    humming: Path,
) -> None:
    async with browser_with_microphone(playwright, chromium, humming, DENY_PERMISSIONS) as browser:
        page = await open_page(await browser.new_context(), viewer.invite("support-42"))
        await shows(page, "Idle")

        await page.get_by_role("button", name="Talk").click()

        await expect(page.get_by_text("The microphone is blocked.")).to_be_visible()
        await expect(page.get_by_role("button", name="Blocked")).to_be_visible()


async def test_a_permission_granted_after_a_second_click_is_ignored(
    speaking_allowed: Stage, viewer: ViewerServer, microphone_tab: BrowserContext
) -> None:
    """A late permission must not switch on a microphone that was switched off meanwhile."""
    page = await open_page(microphone_tab, viewer.invite("support-42"))
    await shows(page, "Idle")
    await page.evaluate(
        f"() => {{ window.permission = new Promise((grant) => (window.grant = grant));"
        f" ({KEEP_STREAM})(); }}"
    )
    await page.get_by_role("button", name="Talk").click()
    await expect(page.get_by_text("Your browser asks whether this page")).to_be_visible()

    await page.get_by_role("button", name="Asking").click()
    await page.evaluate("() => window.grant()")

    await page.wait_for_function("() => window.stream?.getAudioTracks()[0].readyState === 'ended'")
    await expect(page.get_by_role("button", name="Talk")).to_be_visible()


async def test_every_state_has_a_label_and_every_transition_a_target(
    viewer: ViewerServer, tab: BrowserContext
) -> None:
    page = await open_page(tab, viewer.url)

    found = await page.evaluate(
        """async () => {
          const { MICROPHONE, MICROPHONE_TRANSITIONS, microphoneWords } =
            await import("/static/state.js");
          return {
            states: Object.keys(MICROPHONE),
            transitions: MICROPHONE_TRANSITIONS,
            labels: Object.keys(MICROPHONE).map((one) => microphoneWords(one, true)),
            unpublished: microphoneWords("on", false).label,
          };
        }"""
    )

    assert set(found["transitions"]) == set(found["states"])
    assert set(itertools.chain(*found["transitions"].values())) <= set(found["states"])
    assert all(one["label"] for one in found["labels"])
    assert found["unpublished"] == "Not heard yet"
    assert all(
        "off" in targets for state, targets in found["transitions"].items() if state != "off"
    )
