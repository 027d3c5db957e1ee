"""Serializes starts of Python processes, and keeps them out of time-critical measurements.

A start occupies a core for one or two seconds. So processes start one at a time, and none starts
while a takeover is measured: load from other runs is not part of the fault. Starts no process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

MAX_DEFERRAL_S: Final = 5.0
"""How long a measurement lets waiting starts go first."""


class StartLock:
    """A start excludes other starts and measurements; measurements do not exclude each other."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._is_starting = False
        self._starts_wanted = 0
        self._urgent_wanted = 0
        self._measurements = 0
        self._measurements_due = 0
        """Measurements that have waited for `MAX_DEFERRAL_S`: no further start goes before them."""

    @asynccontextmanager
    async def start(self, *, urgent: bool = False) -> AsyncIterator[None]:
        """Start a process in the block.

        Args:
            urgent: a fault waits for this start, so it goes before those that are not urgent.
        """
        self._starts_wanted += 1
        self._urgent_wanted += urgent
        try:
            await self._until(self._may_start_urgently if urgent else self._may_start)
            self._is_starting = True
        finally:
            self._starts_wanted -= 1
            self._urgent_wanted -= urgent
        try:
            yield
        finally:
            self._is_starting = False
            await self._notify()

    @asynccontextmanager
    async def no_starts(self) -> AsyncIterator[None]:
        """Measure in the block: no process starts."""
        try:
            async with asyncio.timeout(MAX_DEFERRAL_S):
                await self._until(lambda: not self._is_starting and not self._starts_wanted)
        except TimeoutError:
            self._measurements_due += 1
            try:
                await self._until(lambda: not self._is_starting)
            finally:
                self._measurements_due -= 1
        self._measurements += 1
        try:
            yield
        finally:
            self._measurements -= 1
            await self._notify()

    def _may_start(self) -> bool:
        return self._may_start_urgently() and not (self._urgent_wanted or self._measurements_due)

    def _may_start_urgently(self) -> bool:
        return not (self._is_starting or self._measurements)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
