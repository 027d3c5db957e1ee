"""An environment for each test: its own namespace and simulator; Temporal and LiveKit are shared.

An orphan is a billed session whose workflow is closed. Where it matters how it came about, real
worker processes are killed (test_killed_owner.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pydantic import SecretStr

from avatar_sessions.seal import Seal
from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from liveavatar_lite import LiveAvatar
from liveavatar_simulator import LiveAvatarSimulator
from tests.support.platforms.in_process import API_KEY, simulator_settings
from tests.support.platforms.janitor import JanitorEnvironment
from tests.support.secret_scan import remember
from workers.settings import WorkerSettings


@pytest.fixture(scope="session")
def seal_key() -> SecretStr:
    key = Seal.new_key()
    remember(key.get_secret_value(), "a seal key")
    remember(API_KEY, "the API key")
    return key


@pytest_asyncio.fixture
async def environment(
    temporal: TemporalServer, livekit: LiveKitServer, seal_key: SecretStr
) -> AsyncIterator[JanitorEnvironment]:
    settings_ = simulator_settings(livekit, join_rooms=False, calls_per_s=0, concurrency_limit=500)
    client = await temporal.new_namespace()
    async with (
        LiveAvatarSimulator(settings_) as simulator,
        LiveAvatar(SecretStr(API_KEY), base_url=simulator.url) as liveavatar,
    ):
        settings = WorkerSettings.model_validate(
            {
                "LIVEAVATAR_API_KEY": API_KEY,
                "LIVEAVATAR_API_URL": simulator.url,
                "LIVEKIT_URL": livekit.url,
                "LIVEKIT_API_KEY": livekit.api_key,
                "LIVEKIT_API_SECRET": livekit.api_secret,
                "AVATAR_SESSIONS_SEAL_KEYS": seal_key.get_secret_value(),
                "AVATAR_SESSIONS_DRAIN_TIMEOUT_S": 5,
            }
        )
        yield JanitorEnvironment(client, simulator, livekit, settings, liveavatar)
