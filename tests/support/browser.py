"""Headless Chromium, with or without a microphone, and livekit-client from npm."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Playwright, async_playwright

from deploy.local.settings import LocalSettings
from viewer.page import STATIC_FOLDER

CHROMIUM_ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
AUTOPLAY_ALLOWED: Final = "--autoplay-policy=no-user-gesture-required"
AUTOPLAY_AFTER_CLICK: Final = "--autoplay-policy=document-user-activation-required"
FAKE_MICROPHONE: Final = "--use-fake-device-for-media-stream"
GRANT_PERMISSIONS: Final = "--use-fake-ui-for-media-stream"
DENY_PERMISSIONS: Final = "--deny-permission-prompts"
NPM_TIMEOUT_S: Final = 50.0


@pytest_asyncio.fixture(scope="session")
async def livekit_client() -> None:
    """livekit-client from npm, where the page's server finds it; installed if missing."""
    if (STATIC_FOLDER / "node_modules" / "livekit-client").is_dir():
        return
    npm = shutil.which("npm")
    if npm is None:
        reason = "npm is not installed, and the page's test needs livekit-client from it"
        if LocalSettings().ci:
            pytest.fail(reason)
        pytest.skip(reason)
    install = await asyncio.create_subprocess_exec(
        npm, "ci", "--prefix", str(STATIC_FOLDER), "--no-audit", "--no-fund"
    )
    async with asyncio.timeout(NPM_TIMEOUT_S):
        assert await install.wait() == 0, "npm ci failed; its output is above"


@pytest_asyncio.fixture(scope="session")
async def playwright() -> AsyncIterator[Playwright]:
    async with async_playwright() as playwright:
        yield playwright


@pytest_asyncio.fixture(scope="session")
async def browser(
    playwright: Playwright, chromium: Path, livekit_client: None
) -> AsyncIterator[Browser]:
    """Headless Chromium that plays sound without a click."""
    browser = await playwright.chromium.launch(
        executable_path=chromium, args=[*CHROMIUM_ARGUMENTS, AUTOPLAY_ALLOWED]
    )
    yield browser
    await browser.close()


@contextlib.asynccontextmanager
async def browser_with_microphone(
    playwright: Playwright, chromium: Path, recording: Path, *arguments: str
) -> AsyncIterator[Browser]:
    """Chromium whose microphone plays a WAV file, from its beginning at each opening."""
    browser = await playwright.chromium.launch(
        executable_path=chromium,
        args=[
            *(*CHROMIUM_ARGUMENTS, AUTOPLAY_ALLOWED, FAKE_MICROPHONE, *arguments),
            f"--use-file-for-fake-audio-capture={recording}",
        ],
    )
    try:
        yield browser
    finally:
        await browser.close()
