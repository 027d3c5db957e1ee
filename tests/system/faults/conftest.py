"""Platforms behind relays: what goes to LiveAvatar and LiveKit can be held up, refused or cut."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from tests.support.platforms.relayed import RelayedPlatform, relayed_platform
from workers.settings import WorkerSettings


@pytest_asyncio.fixture
async def relayed(
    temporal: TemporalServer, livekit: LiveKitServer, worker_settings: WorkerSettings
) -> AsyncIterator[RelayedPlatform]:
    """A simulator for this test alone, and workers in this process."""
    async with relayed_platform(temporal, livekit, worker_settings) as platform:
        yield platform


@pytest_asyncio.fixture
async def relayed_single(
    temporal: TemporalServer, livekit: LiveKitServer, worker_settings: WorkerSettings
) -> AsyncIterator[RelayedPlatform]:
    """The same on a plan whose concurrency limit is one session."""
    async with relayed_platform(
        temporal, livekit, worker_settings, concurrency_limit=1
    ) as platform:
        yield platform


@pytest_asyncio.fixture
async def relayed_workerless(
    temporal: TemporalServer, livekit: LiveKitServer, worker_settings: WorkerSettings
) -> AsyncIterator[RelayedPlatform]:
    """The same without workers: the test starts worker processes."""
    async with relayed_platform(temporal, livekit, worker_settings, workers=False) as platform:
        yield platform
