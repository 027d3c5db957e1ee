"""What every test of the page does: open it, and wait for what it says."""

from __future__ import annotations

from typing import Final

from playwright.async_api import BrowserContext, Page, expect

SOON_MS: Final = 15_000


async def open_page(tab: BrowserContext, link: str) -> Page:
    page = await tab.new_page()
    page.set_default_timeout(SOON_MS)
    await page.goto(link)
    return page


async def shows(page: Page, state: str) -> None:
    """The page comes to say `state` at its top."""
    await expect(page.get_by_role("status")).to_have_text(state, timeout=SOON_MS)
