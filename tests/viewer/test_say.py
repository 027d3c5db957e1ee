"""Words that a viewer types: who may send them, how many, and what the page says of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect

from avatar_sessions.contract.states import EndReason, SessionState
from tests.support.page import SOON_MS, open_page, shows
from tests.viewer.conftest import PlayedSession, Stage
from viewer import ViewerServer, ViewerSourceError
from viewer.app import MAX_TEXT_CHARS


@dataclass
class PlayedSpeaker:
    """A `ViewerSpeaker` that says what the test lets it say."""

    said: list[tuple[str, str]] = field(default_factory=list)
    trouble: str | None = None
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def say(self, session_key: str, text: str) -> None:
        if self.trouble is not None:
            raise ViewerSourceError(self.trouble)
        self.said.append((session_key, text))
        await self.may_end.wait()


@pytest.fixture
def speaker() -> PlayedSpeaker:
    speaker = PlayedSpeaker()
    speaker.may_end.set()
    return speaker


@pytest_asyncio.fixture
async def saying(session: PlayedSession, speaker: PlayedSpeaker) -> AsyncIterator[ViewerServer]:
    """A viewer server whose page has a field for words."""
    async with ViewerServer(session, speaker=speaker, port=0, status_interval_s=0.02) as server:
        yield server


@pytest_asyncio.fixture
async def guest(saying: ViewerServer) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A browser that has come in by an invitation, and its page's path."""
    headers = {"origin": saying.url}
    async with httpx.AsyncClient(base_url=saying.url, headers=headers, timeout=10) as client:
        link, _, code = saying.invite("support-42").partition("#")
        path = httpx.URL(link).path
        answer = await client.post(f"{path}/access", json={"code": code})
        assert answer.json()["can_say"]
        yield client, path


async def test_the_avatar_says_what_was_typed(
    guest: tuple[httpx.AsyncClient, str], speaker: PlayedSpeaker
) -> None:
    client, path = guest

    answer = await client.post(f"{path}/say", json={"text": "  Good morning. "})

    assert answer.status_code == 200
    assert speaker.said == [("support-42", "Good morning.")]


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"{}",
        b'{"text": ""}',
        b'{"text": "   "}',
        b'{"text": 7}',
        b'{"text": "hello", "voice": "other"}',
        b'{"text": "' + b"a" * (MAX_TEXT_CHARS + 1) + b'"}',
        b'{"text": "' + b"a" * 10_000 + b'"}',
    ],
)
async def test_what_cannot_be_said_is_refused_in_a_sentence(
    guest: tuple[httpx.AsyncClient, str], speaker: PlayedSpeaker, body: bytes
) -> None:
    client, path = guest

    answer = await client.post(f"{path}/say", content=body)

    assert answer.status_code == 400
    assert answer.json()["message"] == "The avatar takes 1 to 300 characters at a time."
    assert speaker.said == []


async def test_only_the_page_that_was_invited_may_speak(
    saying: ViewerServer, guest: tuple[httpx.AsyncClient, str], speaker: PlayedSpeaker
) -> None:
    client, path = guest

    by_another_site = await client.post(
        f"{path}/say", json={"text": "hello"}, headers={"origin": "https://example.org"}
    )
    async with httpx.AsyncClient(base_url=saying.url) as stranger:
        without_a_pass = await stranger.post(f"{path}/say", json={"text": "hello"})

    assert by_another_site.status_code == 403
    assert without_a_pass.status_code == 404
    assert speaker.said == []


async def test_a_page_is_heard_out_before_it_may_say_more(
    guest: tuple[httpx.AsyncClient, str], speaker: PlayedSpeaker
) -> None:
    client, path = guest
    speaker.may_end.clear()
    first = asyncio.create_task(client.post(f"{path}/say", json={"text": "one"}))
    async with asyncio.timeout(10):
        while not speaker.said:
            await asyncio.sleep(0.01)

    second = await client.post(f"{path}/say", json={"text": "two"})
    speaker.may_end.set()
    await first
    third = await client.post(f"{path}/say", json={"text": "three"})

    assert second.status_code == 429
    assert second.json()["message"] == "The avatar is still speaking your last text."
    assert third.status_code == 200
    assert [text for _, text in speaker.said] == ["one", "three"]


async def test_without_a_speaker_there_is_nothing_to_say_words_to(
    viewer: ViewerServer, client: httpx.AsyncClient
) -> None:
    link, _, code = viewer.invite("support-42").partition("#")
    path = httpx.URL(link).path
    access = await client.post(f"{path}/access", json={"code": code})

    answer = await client.post(f"{path}/say", json={"text": "hello"})

    assert not access.json()["can_say"]
    assert answer.status_code == 404


async def test_words_typed_into_the_page_are_said_and_the_field_is_empty_again(
    stage: Stage, saying: ViewerServer, speaker: PlayedSpeaker, tab: BrowserContext
) -> None:
    page = await open_page(tab, saying.invite("support-42"))
    await shows(page, "Idle")
    speaker.may_end.clear()
    field_ = page.get_by_label("What the avatar is to say")

    await field_.fill("Good morning.")
    await field_.press("Enter")

    await expect(page.get_by_role("button", name="Saying…")).to_be_disabled()
    await expect(field_).to_have_value("")
    speaker.may_end.set()
    await expect(page.get_by_role("button", name="Say", exact=True)).to_be_enabled()
    assert speaker.said == [("support-42", "Good morning.")]


async def test_words_that_cannot_be_said_are_told_in_a_sentence(
    stage: Stage, saying: ViewerServer, speaker: PlayedSpeaker, tab: BrowserContext
) -> None:
    page = await open_page(tab, saying.invite("support-42"))
    await shows(page, "Idle")
    speaker.trouble = "The session is moving to another owner."

    await page.get_by_label("What the avatar is to say").fill("Good morning.")
    await page.get_by_role("button", name="Say", exact=True).click()

    await expect(page.get_by_text("The session is moving to another owner.")).to_be_visible(
        timeout=SOON_MS
    )


async def test_the_field_is_there_only_where_words_become_speech_and_while_the_session_lives(
    stage: Stage, viewer: ViewerServer, saying: ViewerServer, tab: BrowserContext
) -> None:
    silent = await open_page(tab, viewer.invite("support-42"))
    await shows(silent, "Idle")  # before its place is taken: both have one access
    page = await open_page(tab, saying.invite("support-42"))
    await shows(page, "Idle")
    await expect(page.locator("#say")).to_be_visible()
    await expect(silent.locator("#say")).to_be_hidden()

    stage.session.becomes(SessionState.ENDED, end_reason=EndReason.REQUESTED)

    await shows(page, "Session ended")
    await expect(page.locator("#say")).to_be_hidden()
