"""The page's microphone: offered, asked for, heard in the room, given back."""

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
from tests.support.page import SOON_MS, open_page, shows
from tests.support.stand_in_avatar import viewer_token
from tests.viewer.conftest import SAY_YES, Stage, browser_that_hears
from tests.viewer.test_generations import delete, next_room
from viewer import ViewerAccess, ViewerServer

SAMPLE_RATE_HZ = 48_000
# The browser's own sign that a page hears is lit as long as a track it was given is live.
KEEP_WHAT_IS_GIVEN = """() => {
  const devices = navigator.mediaDevices;
  const ask = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (wanted) => {
    await window.patience;
    return (window.given = await ask(wanted));
  };
}"""
OWN_LEVEL = "() => Number(document.querySelector('#own-level').ariaValueNow)"


@pytest.fixture(scope="session")
def humming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds that noise suppression takes for a voice: it comes and goes."""
    seconds = np.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tones = sum(np.sin(2 * np.pi * 150 * n * seconds) / n for n in range(1, 12))
    swell = np.clip(np.sin(2 * np.pi * 3 * seconds), 0, 1)
    file = tmp_path_factory.mktemp("microphone") / "humming.wav"
    soundfile.write(file, 0.25 * tones * swell, SAMPLE_RATE_HZ, subtype="PCM_16")
    return file


@pytest_asyncio.fixture(scope="session")
async def hearing(
    playwright: Playwright, chromium: Path, humming: Path, livekit_client: None
) -> AsyncIterator[Browser]:
    """A browser with a microphone, and a person who says yes."""
    async with browser_that_hears(playwright, chromium, humming, SAY_YES) as browser:
        yield browser


@pytest_asyncio.fixture
async def person(hearing: Browser) -> AsyncIterator[BrowserContext]:
    """That person's window."""
    context = await hearing.new_context(viewport={"width": 1280, "height": 800})
    yield context
    await context.close()


@pytest.fixture
def speaking_allowed(stage: Stage) -> Stage:
    """The room lets viewers publish, as our own rooms do."""
    token = viewer_token(stage.livekit, stage.room, may_speak=True)
    stage.session.granted = ViewerAccess(stage.livekit.url, token)
    return stage


def subscriber(stage: Stage) -> Subscriber:
    """Somebody else in the room, whose ears are measured."""
    token = viewer_token(stage.livekit, stage.room, "somebody-else")
    return Subscriber(stage.livekit.url, token.get_secret_value())


def rooms_of(stage: Stage) -> api.LiveKitAPI:
    return api.LiveKitAPI(stage.livekit.url, stage.livekit.api_key, stage.livekit.api_secret)


async def switch_on(page: Page) -> None:
    await page.get_by_role("button", name="Talk").click()
    await expect(page.get_by_role("button", name="You are heard")).to_be_visible(timeout=SOON_MS)


async def test_the_microphone_is_off_until_it_is_asked_for(
    speaking_allowed: Stage, viewer: ViewerServer, person: BrowserContext
) -> None:
    page = await open_page(person, viewer.invite("support-42"))
    await shows(page, "Idle")

    talk = page.get_by_role("button", name="Talk")

    await expect(talk).to_have_attribute("aria-pressed", "false")
    await expect(page.get_by_role("meter", name="Your voice")).to_be_hidden()
    async with subscriber(speaking_allowed) as ears:
        assert await ears.until_audible(1) is None


async def test_what_the_person_says_is_heard_in_the_room_and_seen_on_the_page(
    speaking_allowed: Stage, viewer: ViewerServer, person: BrowserContext
) -> None:
    page = await open_page(person, viewer.invite("support-42"))
    await shows(page, "Idle")

    async with subscriber(speaking_allowed) as ears:
        await switch_on(page)

        assert await ears.until_audible(SOON_MS / 1000) is not None
    await page.wait_for_function(f"() => ({OWN_LEVEL})() > -40")
    await shows(page, "Idle")  # the avatar's meter and state are the avatar's


async def test_switched_off_it_is_given_back_and_nothing_is_heard_any_more(
    speaking_allowed: Stage, viewer: ViewerServer, person: BrowserContext
) -> None:
    page = await open_page(person, viewer.invite("support-42"))
    await shows(page, "Idle")
    await page.evaluate(KEEP_WHAT_IS_GIVEN)
    await switch_on(page)
    assert await page.evaluate("() => window.given.getAudioTracks()[0].readyState") == "live"

    await page.get_by_role("button", name="You are heard").click()

    await expect(page.get_by_role("button", name="Talk")).to_be_visible()
    assert await page.evaluate("() => window.given.getAudioTracks()[0].readyState") == "ended"
    async with rooms_of(speaking_allowed) as rooms, asyncio.timeout(SOON_MS / 1000):
        while await microphones(rooms, speaking_allowed.room, "viewer"):
            await asyncio.sleep(0.1)


async def microphones(rooms: api.LiveKitAPI, room: str, identity: str) -> int:
    """How many tracks somebody publishes."""
    listed = await rooms.room.list_participants(api.ListParticipantsRequest(room=room))
    return sum(len(one.tracks) for one in listed.participants if one.identity == identity)


async def test_sound_is_cleaned_before_it_leaves(
    speaking_allowed: Stage, viewer: ViewerServer, person: BrowserContext
) -> None:
    """Without echo cancellation the avatar would hear itself from the loudspeaker."""
    page = await open_page(person, viewer.invite("support-42"))
    await shows(page, "Idle")
    await page.evaluate(KEEP_WHAT_IS_GIVEN)

    await switch_on(page)

    settings = await page.evaluate("() => window.given.getAudioTracks()[0].getSettings()")
    cleaning = ("echoCancellation", "noiseSuppression", "autoGainControl")
    assert [settings[name] for name in cleaning] == [True, True, True]


async def test_a_person_who_is_put_out_of_the_room_is_heard_again_without_a_click(
    speaking_allowed: Stage, viewer: ViewerServer, person: BrowserContext
) -> None:
    stage = speaking_allowed
    page = await open_page(person, viewer.invite("support-42"))
    await shows(page, "Idle")
    await switch_on(page)

    stage.session.granted = ViewerAccess(
        stage.livekit.url, viewer_token(stage.livekit, stage.room, "viewer-2", may_speak=True)
    )
    async with rooms_of(stage) as rooms:
        await rooms.room.remove_participant(
            api.RoomParticipantIdentity(room=stage.room, identity="viewer")
        )
        async with asyncio.timeout(SOON_MS / 1000):
            while not await microphones(rooms, stage.room, "viewer-2"):
                await asyncio.sleep(0.1)
    async with subscriber(stage) as ears:
        assert await ears.until_audible(SOON_MS / 1000) is not None
    await expect(page.get_by_role("button", name="You are heard")).to_be_visible(timeout=SOON_MS)


@pytest.mark.parametrize("old_room", ["deleted", "kept"])
async def test_who_speaks_is_heard_in_the_room_of_the_next_liveavatar_session_without_a_click(
    stage: Stage, viewer: ViewerServer, person: BrowserContext, old_room: str
) -> None:
    async with next_room(stage, may_speak=True) as following:
        page = await open_page(person, viewer.invite("support-42"))
        await shows(page, "Idle")
        await page.evaluate(KEEP_WHAT_IS_GIVEN)
        await switch_on(page)
        token = viewer_token(stage.livekit, following.room, "somebody-else")
        async with Subscriber(stage.livekit.url, token.get_secret_value()) as ears:
            following.switch()
            if old_room == "deleted":
                await delete(stage.livekit, stage.room)

            async with rooms_of(stage) as rooms, asyncio.timeout(SOON_MS / 1000):
                while not await microphones(rooms, following.room, "viewer"):
                    await asyncio.sleep(0.1)
            assert await ears.until_audible(SOON_MS / 1000) is not None
        await expect(page.get_by_role("button", name="You are heard")).to_be_visible()
        assert await page.evaluate("() => window.given.getAudioTracks()[0].readyState") == "live"


async def test_the_microphone_is_given_back_when_the_session_is_over(
    speaking_allowed: Stage, viewer: ViewerServer, person: BrowserContext
) -> None:
    page = await open_page(person, viewer.invite("support-42"))
    await shows(page, "Idle")
    await page.evaluate(KEEP_WHAT_IS_GIVEN)
    await switch_on(page)

    speaking_allowed.session.becomes(SessionState.ENDED, end_reason=EndReason.REQUESTED)

    await shows(page, "Session ended")
    await page.wait_for_function(
        "() => window.given.getAudioTracks()[0].readyState === 'ended'", timeout=SOON_MS
    )


async def test_a_page_that_gave_its_place_to_another_window_gives_the_microphone_back(
    speaking_allowed: Stage, viewer: ViewerServer, person: BrowserContext
) -> None:
    first = await open_page(person, viewer.invite("support-42"))
    await shows(first, "Idle")
    await first.evaluate(KEEP_WHAT_IS_GIVEN)
    await switch_on(first)

    second = await open_page(person, viewer.invite("support-42"))

    await shows(second, "Idle")
    await shows(first, "Opened elsewhere")
    await first.wait_for_function(
        "() => window.given.getAudioTracks()[0].readyState === 'ended'", timeout=SOON_MS
    )


async def test_who_may_not_speak_in_the_room_is_not_offered_a_microphone(
    stage: Stage, viewer: ViewerServer, person: BrowserContext
) -> None:
    page = await open_page(person, viewer.invite("support-42"))
    await shows(page, "Idle")

    await expect(page.locator("#microphone")).to_be_hidden()


async def test_a_room_that_takes_the_sound_no_more_is_told(
    speaking_allowed: Stage, viewer: ViewerServer, person: BrowserContext
) -> None:
    """What a hosted room's token allows is not documented: it is tried, and a refusal is told."""
    stage = speaking_allowed
    page = await open_page(person, viewer.invite("support-42"))
    await shows(page, "Idle")
    await switch_on(page)

    async with rooms_of(stage) as rooms:
        await rooms.room.update_participant(
            api.UpdateParticipantRequest(
                room=stage.room,
                identity="viewer",
                permission=api.ParticipantPermission(can_publish=False, can_subscribe=True),
            )
        )

    await expect(page.get_by_text("The room takes no sound from this page.")).to_be_visible(
        timeout=SOON_MS
    )


async def test_a_machine_without_a_microphone_is_told_so(
    speaking_allowed: Stage, viewer: ViewerServer, tab: BrowserContext
) -> None:
    await tab.grant_permissions(["microphone"])
    page = await open_page(tab, viewer.invite("support-42"))
    await shows(page, "Idle")

    await page.get_by_role("button", name="Talk").click()

    await expect(page.get_by_text("No microphone was found.")).to_be_visible()
    await expect(page.get_by_role("button", name="No microphone")).to_be_visible()


async def test_a_person_who_says_no_is_told_how_to_change_that(
    speaking_allowed: Stage,
    viewer: ViewerServer,
    playwright: Playwright,
    chromium: Path,
    humming: Path,
) -> None:
    deny = "--deny-permission-prompts"
    async with browser_that_hears(playwright, chromium, humming, deny) as browser:
        page = await open_page(await browser.new_context(), viewer.invite("support-42"))
        await shows(page, "Idle")

        await page.get_by_role("button", name="Talk").click()

        await expect(page.get_by_text("The microphone is blocked.")).to_be_visible()
        await expect(page.get_by_role("button", name="Blocked")).to_be_visible()


async def test_a_yes_that_comes_after_a_second_click_is_none(
    speaking_allowed: Stage, viewer: ViewerServer, person: BrowserContext
) -> None:
    """A late yes must not switch the microphone on for somebody who has changed their mind."""
    page = await open_page(person, viewer.invite("support-42"))
    await shows(page, "Idle")
    await page.evaluate(
        f"() => {{ window.patience = new Promise((yes) => (window.sayYes = yes));"
        f" ({KEEP_WHAT_IS_GIVEN})(); }}"
    )
    await page.get_by_role("button", name="Talk").click()
    await expect(page.get_by_text("Your browser asks whether this page")).to_be_visible()

    await page.get_by_role("button", name="Asking").click()
    await page.evaluate("() => window.sayYes()")

    await page.wait_for_function("() => window.given?.getAudioTracks()[0].readyState === 'ended'")
    await expect(page.get_by_role("button", name="Talk")).to_be_visible()


async def test_every_state_has_words_and_every_move_leads_somewhere(
    viewer: ViewerServer, tab: BrowserContext
) -> None:
    page = await open_page(tab, viewer.url)

    told = await page.evaluate(
        """async () => {
          const { MICROPHONE, MICROPHONE_MOVES, microphoneWords } =
            await import("/static/state.js");
          return {
            states: Object.keys(MICROPHONE),
            moves: MICROPHONE_MOVES,
            words: Object.keys(MICROPHONE).map((one) => microphoneWords(one, true)),
            unheard: microphoneWords("on", false).label,
          };
        }"""
    )

    assert set(told["moves"]) == set(told["states"])
    assert set(itertools.chain(*told["moves"].values())) <= set(told["states"])
    assert all(words["label"] for words in told["words"])
    assert told["unheard"] == "Not heard yet"
    assert all("off" in ways for state, ways in told["moves"].items() if state != "off")
