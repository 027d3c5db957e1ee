"""Heartbeats during a call, so that the server notices the death of its worker within seconds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from temporalio import activity

HEARTBEAT_INTERVAL_S: Final = 1.0
"""A call that ends sooner sends no heartbeat."""


@contextlib.asynccontextmanager
async def heartbeating() -> AsyncIterator[None]:
    """Send heartbeats for as long as the block runs."""
    task = asyncio.create_task(_send_heartbeats(), name="heartbeats")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _send_heartbeats() -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_INTERVAL_S)
        activity.heartbeat()
