"""The example backend's page in a real browser, with the whole product behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from examples.local_tts import ToneTts
from liveavatar_lite import SessionEndReason
from tests.support.platforms.backend_server import RunningBackend, backend
from tests.support.platforms.product import Product
from tests.support.waiting import until

SOON_MS = 15_000
PLAYS = "() => document.querySelector('#avatar').getVideoPlaybackQuality().totalVideoFrames > 5"


@pytest_asyncio.fixture
async def running(product: Product) -> AsyncIterator[RunningBackend]:
    async with backend(product, ToneTts()) as running:
        yield running


async def shows(page: Page, state: str) -> None:
    await expect(page.get_by_role("status")).to_have_text(state, timeout=SOON_MS)


async def test_the_page_starts_speaks_interrupts_and_ends(
    running: RunningBackend, browser: Browser, product: Product
) -> None:
    page = await browser.new_page()
    page.set_default_timeout(SOON_MS)
    errors: list[str] = []
    addresses: list[str] = []
    page.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: addresses.append(request.url))
    await page.goto(running.url)
    await shows(page, "No session")

    await page.get_by_role("button", name="Start").click()
    await shows(page, "Live")
    await page.wait_for_function(PLAYS, timeout=SOON_MS)

    field = page.get_by_label("Text for the avatar to speak")
    said = page.get_by_role("listitem")
    await field.fill("Good <b>morning</b> to you")
    await field.press("Enter")
    await expect(said.first).to_contain_text("completed, 1.7 s heard", timeout=SOON_MS)
    await expect(said.first).to_contain_text("Good <b>morning</b> to you")

    await field.fill("and now for something long " * 10)
    await page.get_by_role("button", name="Say", exact=True).click()
    await until(lambda: len(product.simulator.ledger().sessions[-1].utterances) == 2)
    await page.get_by_role("button", name="Stop").click()
    await expect(said.first).to_contain_text("interrupted", timeout=SOON_MS)

    await page.reload()
    await shows(page, "Live")
    await page.wait_for_function(PLAYS, timeout=SOON_MS)
    await page.screenshot(path=product.logs / "backend-page.png")

    await page.get_by_role("button", name="End").click()
    await shows(page, "Ended")
    await expect(page.get_by_role("button", name="Start")).to_be_enabled()
    await page.close()
    # Before the start the page polls and gets 404, which browsers log as an error.
    assert [one for one in errors if "404" not in one] == []
    assert not [one for one in addresses if running.url in one and "token" in one]


async def test_the_page_follows_into_the_room_of_the_next_generation(
    running: RunningBackend, browser: Browser, product: Product
) -> None:
    page = await browser.new_page()
    page.set_default_timeout(SOON_MS)
    await page.goto(running.url)
    await page.get_by_role("button", name="Start").click()
    await shows(page, "Live")
    await page.wait_for_function(PLAYS, timeout=SOON_MS)

    lost = product.simulator.ledger().sessions[-1]
    await product.simulator.end_session(str(lost.session_id), SessionEndReason.SERVER_ERROR)
    await page.wait_for_function(  # the old room's video has ended
        "() => document.querySelector('#avatar').srcObject === null", timeout=SOON_MS
    )

    await page.wait_for_function(PLAYS, timeout=2 * SOON_MS)
    await shows(page, "Live")
    assert product.simulator.ledger().sessions[-1].session_id != lost.session_id
    await page.get_by_role("button", name="End").click()
    await shows(page, "Ended")
    await page.close()


async def test_a_refusal_is_shown_on_the_page(running: RunningBackend, browser: Browser) -> None:
    page = await browser.new_page()
    await page.goto(running.url)
    await page.context.clear_cookies()

    await page.get_by_role("button", name="Start").click()

    await expect(page.get_by_role("alert")).to_have_text("Open the page first.", timeout=SOON_MS)
    await page.close()
