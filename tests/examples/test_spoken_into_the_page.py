"""The viewer page with the example agent: speech and text of a viewer are spoken by the avatar.

Chromium with a microphone that plays a file, and the whole product behind it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
from playwright.async_api import Page, Playwright, expect

from avatar_sessions import Session, UtteranceOutcome
from examples.voice.endpointing import Pcm
from tests.support.browser import GRANT_PERMISSIONS, browser_with_microphone
from tests.support.platforms.product import Product, RunningAgent
from tests.support.speech.person import RATE_HZ, Person, likeness, person_in
from tests.support.speech.voice import voice_in
from tests.support.viewer_page import SOON_MS, open_page, shows
from tests.support.waiting import until
from viewer import SessionViewerSource, ViewerServer, ViewerSourceError
from viewer.typed_speech import Espeak, TypedSpeech


@pytest_asyncio.fixture
async def viewer(product: Product, tmp_path: Path) -> AsyncIterator[ViewerServer]:
    """A viewer server with espeak-ng, or its stand-in."""
    voice = Espeak.find() or Espeak(voice_in(tmp_path))
    source = SessionViewerSource(product.sessions)
    speaker = TypedSpeech(product.sessions, voice)
    async with ViewerServer(source, speaker=speaker, port=0) as viewer:
        yield viewer


@pytest_asyncio.fixture
async def listener(session: Session) -> AsyncIterator[Person]:
    """Another participant, who records the avatar's speech."""
    async with person_in(session, "listener") as person:
        await person.switch_off()
        yield person


def recorded(folder: Path, *parts: Pcm) -> Path:
    """A recording for the browser's microphone, with a second of silence at both ends."""
    file = folder / "microphone.wav"
    silence = np.zeros(RATE_HZ, np.int16)
    soundfile.write(file, np.concatenate([silence, *parts, silence]), RATE_HZ, subtype="PCM_16")
    return Path(f"{file}%noloop")


async def switch_on_microphone(page: Page) -> None:
    await shows(page, "Idle")
    await page.get_by_role("button", name="Talk").click()
    await expect(page.get_by_role("button", name="You are heard")).to_be_visible(timeout=SOON_MS)


async def test_speech_into_the_microphone_is_echoed_by_the_avatar(
    session: Session,
    agent: RunningAgent,
    listener: Person,
    viewer: ViewerServer,
    playwright: Playwright,
    chromium: Path,
    words: Pcm,
    tmp_path: Path,
    livekit_client: None,
) -> None:
    said = words[: 4 * RATE_HZ]
    sound = recorded(tmp_path, said)
    async with browser_with_microphone(playwright, chromium, sound, GRANT_PERMISSIONS) as browser:
        page = await open_page(await browser.new_context(), viewer.invite(session.key))
        await switch_on_microphone(page)

        await shows(page, "Talking")
        await agent.until("was answered: completed")
        await until(lambda: likeness(said, listener.heard) > 0.85)

    (utterance,) = (await session.end()).utterances
    assert utterance.source == "live"
    assert utterance.outcome is UtteranceOutcome.COMPLETED
    assert utterance.heard_ms == pytest.approx(4000, abs=900)
    assert likeness(words[3 * RATE_HZ : 7 * RATE_HZ], listener.heard) < 0.8


async def test_talking_over_the_avatar_interrupts_it(
    session: Session,
    agent: RunningAgent,
    viewer: ViewerServer,
    playwright: Playwright,
    chromium: Path,
    words: Pcm,
    tmp_path: Path,
    livekit_client: None,
) -> None:
    """The viewer speaks for seven seconds, pauses for three, and talks over the answer."""
    pause = np.zeros(3 * RATE_HZ, np.int16)
    sound = recorded(tmp_path, words, pause, words[: 2 * RATE_HZ])
    async with browser_with_microphone(playwright, chromium, sound, GRANT_PERMISSIONS) as browser:
        page = await open_page(await browser.new_context(), viewer.invite(session.key))
        await switch_on_microphone(page)

        await agent.until("was answered: interrupted")
        await agent.until("was answered: completed")

    cut, answer = (await session.end()).utterances
    assert cut.outcome is UtteranceOutcome.INTERRUPTED
    assert cut.heard_ms < 6500
    assert answer.outcome is UtteranceOutcome.COMPLETED


async def test_text_typed_into_the_page_is_spoken_by_the_avatar(
    session: Session,
    listener: Person,
    viewer: ViewerServer,
    playwright: Playwright,
    chromium: Path,
    tmp_path: Path,
    livekit_client: None,
) -> None:
    async with browser_with_microphone(
        playwright, chromium, recorded(tmp_path), GRANT_PERMISSIONS
    ) as browser:
        page = await open_page(await browser.new_context(), viewer.invite(session.key))
        await shows(page, "Idle")

        await page.get_by_label("Text for the avatar to speak").fill("Good morning to you.")
        await page.get_by_role("button", name="Say", exact=True).click()

        await shows(page, "Talking")
        await until(lambda: listener.hears_now)
        await expect(page.get_by_role("button", name="Say", exact=True)).to_be_enabled(
            timeout=SOON_MS
        )

    (utterance,) = (await session.end()).utterances
    assert (utterance.text, utterance.outcome) == (
        "Good morning to you.",
        UtteranceOutcome.COMPLETED,
    )


async def test_text_for_an_unknown_session_is_refused_in_a_sentence(
    product: Product, viewer: ViewerServer, tmp_path: Path
) -> None:
    speaker = TypedSpeech(product.sessions, Espeak(voice_in(tmp_path)))

    with pytest.raises(ViewerSourceError, match=r"There is no session 'unknown'\."):
        await speaker.say("unknown", "hello")
