"""A platform whose LiveAvatar sessions are short."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from pydantic import SecretStr

from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from tests.support.platforms.generations import BRIEF_S, own_platform
from tests.support.platforms.in_process import Platform


@pytest_asyncio.fixture
async def brief(
    temporal: TemporalServer, livekit: LiveKitServer, platform: Platform, seal_key: SecretStr
) -> AsyncIterator[Platform]:
    """LiveAvatar sessions that last 24 s, and then freeze without an event."""
    async with own_platform(
        temporal, livekit, platform, seal_key, plan_max_duration_s=BRIEF_S
    ) as platform:
        yield platform
