"""What the documentation's programs run against: real servers, workers, the simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
from pydantic import SecretStr
from temporalio.client import Client

from avatar_sessions import AvatarSessions, Seal
from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from liveavatar_simulator import LiveAvatarSimulator
from tests.support.platforms.in_process import API_KEY, running_workers, simulator_settings
from tests.support.secret_scan import remember
from workers.settings import WorkerSettings

CLIP_MS = 200


@pytest.fixture(scope="session")
def seal_key() -> SecretStr:
    """The key that workers and client share."""
    key = Seal.new_key()
    remember(key.get_secret_value(), "a seal key")
    return key


@pytest.fixture(scope="session")
def seal(seal_key: SecretStr) -> Seal:
    """Opens what the workers sealed."""
    return Seal([seal_key])


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workers' clip folder, with the one clip that the documentation names."""
    folder = tmp_path_factory.mktemp("clips")
    samples = np.zeros(24 * CLIP_MS, dtype=np.int16)
    soundfile.write(folder / "hello.flac", samples, 24_000)
    return folder


@pytest_asyncio.fixture(scope="session")
async def client(
    temporal: TemporalServer, livekit: LiveKitServer, seal_key: SecretStr, clip_folder: Path
) -> AsyncIterator[Client]:
    """A Temporal client of a fresh namespace, with a simulator and workers in all roles."""
    client = await temporal.new_namespace("docs")
    async with LiveAvatarSimulator(simulator_settings(livekit, join_rooms=False)) as simulator:
        settings = WorkerSettings.model_validate(
            {
                "LIVEAVATAR_API_KEY": API_KEY,
                "LIVEAVATAR_API_URL": simulator.url,
                "AVATAR_SESSIONS_SEAL_KEYS": seal_key.get_secret_value(),
                "AVATAR_SESSIONS_CLIP_FOLDER": str(clip_folder),
                "AVATAR_SESSIONS_DRAIN_TIMEOUT_S": 5,
            }
        )
        async with running_workers(client, settings):
            yield client


@pytest_asyncio.fixture
async def sessions(client: Client, seal: Seal) -> AsyncIterator[AvatarSessions]:
    """A client with workers behind it; sessions that a test leaves running end after it."""
    sessions = AvatarSessions(client, seal)
    yield sessions
    async for session in sessions.list():
        await session.end()
