"""Wakes the tasks of one live speech that wait for a change. It carries no value."""

from __future__ import annotations

import asyncio


class Notifier:
    """Wakes every waiting task when something changes; each checks its own condition."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake every task that waits now."""
        self._event.set()
        self._event.clear()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait for a notification or the timeout; re-check the condition either way."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            pass
