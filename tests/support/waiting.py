"""Waiting for something to become true, with a bound: never a sleep that hopes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], bool], within_s: float = 30) -> None:
    """Wait until a condition holds; fail when it does not in time."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "it never came true"
        await asyncio.sleep(0.02)
