"""Heartbeats beside a call, so that a worker that dies under it is noticed in seconds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from temporalio import activity

CALL_BEAT_S: Final = 1.0
"""A call that is over sooner costs no heartbeat at all."""


@contextlib.asynccontextmanager
async def beating() -> AsyncIterator[None]:
    """Beat as long as the block lasts."""
    task = asyncio.create_task(_beat(), name="beat")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _beat() -> None:
    while True:
        await asyncio.sleep(CALL_BEAT_S)
        activity.heartbeat()
