"""The product under test: real Temporal and LiveKit servers, the simulator, real workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
from pydantic import SecretStr

from avatar_sessions import AvatarSessions, Session
from avatar_sessions.seal import Seal
from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from liveavatar_simulator import LiveAvatarSimulator
from tests.support.platforms.histories import record_histories
from tests.support.platforms.in_process import (
    API_KEY,
    Platform,
    running_workers,
    simulator_settings,
)
from tests.support.secret_scan import remember
from workers.settings import WorkerSettings


@pytest.fixture(scope="session")
def seal_key() -> SecretStr:
    key = Seal.new_key()
    remember(key.get_secret_value(), "a seal key")
    remember(API_KEY, "the API key")
    return key


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 0.6 s, 3 s and 12 s of tone, and a file that is not audio."""
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds in {"short": 0.6, "middle": 3.0, "long": 12.0}.items():
        t = np.arange(int(24_000 * seconds)) / 24_000
        soundfile.write(folder / f"{name}.wav", 0.4 * np.sin(2 * np.pi * 220 * t), 24_000)
    (folder / "words.wav").write_text("no audio")
    return folder


@pytest_asyncio.fixture(scope="session")
async def simulator(livekit: LiveKitServer) -> AsyncIterator[LiveAvatarSimulator]:
    """A simulator without delays, on a plan whose limits no test reaches."""
    async with LiveAvatarSimulator(simulator_settings(livekit)) as simulator:
        yield simulator


@pytest.fixture(scope="session")
def worker_settings(
    simulator: LiveAvatarSimulator, livekit: LiveKitServer, seal_key: SecretStr, clip_folder: Path
) -> WorkerSettings:
    return WorkerSettings.model_validate(
        {
            "LIVEAVATAR_API_KEY": API_KEY,
            "LIVEAVATAR_API_URL": simulator.url,
            "LIVEKIT_URL": livekit.url,
            "LIVEKIT_API_KEY": livekit.api_key,
            "LIVEKIT_API_SECRET": livekit.api_secret,
            "AVATAR_SESSIONS_SEAL_KEYS": seal_key.get_secret_value(),
            "AVATAR_SESSIONS_CLIP_FOLDER": str(clip_folder),
            "AVATAR_SESSIONS_CLIP_ALLOW_PRIVATE_ADDRESSES": False,
            "AVATAR_SESSIONS_DRAIN_TIMEOUT_S": 5,
            "AVATAR_SESSIONS_INGRESS_PATH_TICKETS": True,
        }
    )


@pytest_asyncio.fixture(scope="session")
async def platform(
    temporal: TemporalServer,
    simulator: LiveAvatarSimulator,
    worker_settings: WorkerSettings,
    seal_key: SecretStr,
    clip_folder: Path,
    pytestconfig: pytest.Config,
) -> AsyncIterator[Platform]:
    """Workers in all roles, and a client."""
    client = await temporal.client()
    records = bool(pytestconfig.getoption("--record-histories", default=False))
    async with running_workers(client, worker_settings):
        yield Platform(
            simulator=simulator,
            sessions=AvatarSessions(client, Seal([seal_key])),
            client=client,
            settings=worker_settings,
            clip_folder=clip_folder,
            records=records,
        )
    if records:
        await record_histories(client)


@pytest_asyncio.fixture(scope="session")
async def live(platform: Platform) -> AsyncIterator[Session]:
    """One live session, for tests that do not change it."""
    session = await platform.start(sandbox=False, max_duration_s=1200)
    await session.attach()
    yield session
    await session.end()


@pytest_asyncio.fixture
async def workerless(
    temporal: TemporalServer, platform: Platform, seal_key: SecretStr
) -> AsyncIterator[Platform]:
    """The platform in a namespace without workers: the test starts its own."""
    client = await temporal.new_namespace()
    sessions = AvatarSessions(client, Seal([seal_key]))
    yield replace(platform, client=client, sessions=sessions)
    if platform.records:
        await record_histories(client)
