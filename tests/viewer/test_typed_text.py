"""Text that a viewer types: which page may send it, its limits, and what the page shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect

from avatar_sessions.contract.states import EndReason, SessionState
from tests.support.scripted_session import ScriptedSession, Stage
from tests.support.viewer_page import SOON_MS, open_page, shows
from viewer import ViewerServer, ViewerSourceError
from viewer.app import MAX_TEXT_CHARS


@dataclass
class ScriptedSpeaker:
    """A `ViewerSpeaker` that finishes when the test lets it."""

    spoken: list[tuple[str, str]] = field(default_factory=list)
    failure: str | None = None
    may_finish: asyncio.Event = field(default_factory=asyncio.Event)

    async def say(self, session_key: str, text: str) -> None:
        if self.failure is not None:
            raise ViewerSourceError(self.failure)
        self.spoken.append((session_key, text))
        await self.may_finish.wait()


@pytest.fixture
def speaker() -> ScriptedSpeaker:
    speaker = ScriptedSpeaker()
    speaker.may_finish.set()
    return speaker


@pytest_asyncio.fixture
async def text_viewer(
    session: ScriptedSession, speaker: ScriptedSpeaker
) -> AsyncIterator[ViewerServer]:
    """A viewer server whose page has an input field."""
    async with ViewerServer(session, speaker=speaker, port=0, status_interval_s=0.02) as server:
        yield server


@pytest_asyncio.fixture
async def guest(text_viewer: ViewerServer) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A browser that has redeemed its invitation, and its page's path."""
    headers = {"origin": text_viewer.url}
    async with httpx.AsyncClient(base_url=text_viewer.url, headers=headers, timeout=10) as client:
        link, _, code = text_viewer.invite("support-42").partition("#")
        path = httpx.URL(link).path
        answer = await client.post(f"{path}/access", json={"code": code})
        assert answer.json()["can_say"]
        yield client, path


async def test_the_speaker_gets_the_typed_text(
    guest: tuple[httpx.AsyncClient, str], speaker: ScriptedSpeaker
) -> None:
    client, path = guest

    answer = await client.post(f"{path}/say", json={"text": "  Good morning. "})

    assert answer.status_code == 200
    assert speaker.spoken == [("support-42", "Good morning.")]


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
async def test_text_outside_the_limits_is_refused(
    guest: tuple[httpx.AsyncClient, str], speaker: ScriptedSpeaker, body: bytes
) -> None:
    client, path = guest

    answer = await client.post(f"{path}/say", content=body)

    assert answer.status_code == 400
    assert answer.json()["message"] == "The avatar takes 1 to 300 characters at a time."
    assert speaker.spoken == []


async def test_only_an_invited_page_may_send_text(
    text_viewer: ViewerServer, guest: tuple[httpx.AsyncClient, str], speaker: ScriptedSpeaker
) -> None:
    client, path = guest

    by_another_site = await client.post(
        f"{path}/say", json={"text": "hello"}, headers={"origin": "https://example.org"}
    )
    async with httpx.AsyncClient(base_url=text_viewer.url) as stranger:
        without_a_pass = await stranger.post(f"{path}/say", json={"text": "hello"})

    assert by_another_site.status_code == 403
    assert without_a_pass.status_code == 404
    assert speaker.spoken == []


async def test_a_page_may_send_one_text_at_a_time(
    guest: tuple[httpx.AsyncClient, str], speaker: ScriptedSpeaker
) -> None:
    client, path = guest
    speaker.may_finish.clear()
    first = asyncio.create_task(client.post(f"{path}/say", json={"text": "one"}))
    async with asyncio.timeout(10):
        while not speaker.spoken:
            await asyncio.sleep(0.01)

    second = await client.post(f"{path}/say", json={"text": "two"})
    speaker.may_finish.set()
    await first
    third = await client.post(f"{path}/say", json={"text": "three"})

    assert second.status_code == 429
    assert second.json()["message"] == "The avatar is still speaking your last text."
    assert third.status_code == 200
    assert [text for _, text in speaker.spoken] == ["one", "three"]


async def test_without_a_speaker_text_is_refused(
    viewer: ViewerServer, client: httpx.AsyncClient
) -> None:
    link, _, code = viewer.invite("support-42").partition("#")
    path = httpx.URL(link).path
    access = await client.post(f"{path}/access", json={"code": code})

    answer = await client.post(f"{path}/say", json={"text": "hello"})

    assert not access.json()["can_say"]
    assert answer.status_code == 404


async def test_text_typed_into_the_page_is_spoken_and_the_field_is_cleared(
    stage: Stage, text_viewer: ViewerServer, speaker: ScriptedSpeaker, tab: BrowserContext
) -> None:
    page = await open_page(tab, text_viewer.invite("support-42"))
    await shows(page, "Idle")
    speaker.may_finish.clear()
    field_ = page.get_by_label("Text for the avatar to speak")

    await field_.fill("Good morning.")
    await field_.press("Enter")

    await expect(page.get_by_role("button", name="Speaking…")).to_be_disabled()
    await expect(field_).to_have_value("")
    speaker.may_finish.set()
    await expect(page.get_by_role("button", name="Say", exact=True)).to_be_enabled()
    assert speaker.spoken == [("support-42", "Good morning.")]


async def test_the_page_shows_why_a_text_was_not_spoken(
    stage: Stage, text_viewer: ViewerServer, speaker: ScriptedSpeaker, tab: BrowserContext
) -> None:
    page = await open_page(tab, text_viewer.invite("support-42"))
    await shows(page, "Idle")
    speaker.failure = "The session is moving to another owner."

    await page.get_by_label("Text for the avatar to speak").fill("Good morning.")
    await page.get_by_role("button", name="Say", exact=True).click()

    await expect(page.get_by_text("The session is moving to another owner.")).to_be_visible(
        timeout=SOON_MS
    )


async def test_the_input_field_is_shown_only_with_a_speaker_and_while_the_session_runs(
    stage: Stage, viewer: ViewerServer, text_viewer: ViewerServer, tab: BrowserContext
) -> None:
    watching = await open_page(tab, viewer.invite("support-42"))
    await shows(watching, "Idle")  # before the second page replaces it: both use one access
    page = await open_page(tab, text_viewer.invite("support-42"))
    await shows(page, "Idle")
    await expect(page.locator("#say")).to_be_visible()
    await expect(watching.locator("#say")).to_be_hidden()

    stage.session.becomes(SessionState.ENDED, end_reason=EndReason.REQUESTED)

    await shows(page, "Session ended")
    await expect(page.locator("#say")).to_be_hidden()
