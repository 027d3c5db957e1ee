"""Starts of Python processes, and the windows in which none may start. Knows no process.

A start takes a core for a second or two. One happens at a time, and none while somebody measures
how long a takeover takes: what a neighbour of ours costs is no part of the fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Quiet:
    """Starts shut each other and windows out; windows stand beside each other.

    A window waits while a start waits, so that windows open together; starts end by themselves.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._windows = 0
        self._starts_wanted = 0
        self._is_starting = False

    @asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """Start a process in here."""
        self._starts_wanted += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._is_starting and not self._windows)
                self._is_starting = True
            try:
                yield
            finally:
                self._is_starting = False
        finally:
            self._starts_wanted -= 1
            async with self._changed:
                self._changed.notify_all()

    @asynccontextmanager
    async def window(self) -> AsyncIterator[None]:
        """Measure in here: nothing starts."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._starts_wanted)
            self._windows += 1
        try:
            yield
        finally:
            self._windows -= 1
            async with self._changed:
                self._changed.notify_all()
