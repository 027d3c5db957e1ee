"""Fixtures of the client: workers in their own namespace, a simulator, a real LiveKit server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import pytest_asyncio
import soundfile
from pydantic import SecretStr
from temporalio.client import Client

from avatar_sessions import AvatarSessions, Seal, SessionRequest
from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from liveavatar_simulator import LiveAvatarSimulator, SimulatorSettings
from liveavatar_simulator.faults import Faults
from tests.support.platforms.sandbox import LONG_MS, SHORT_MS, wanted
from tests.support.secret_scan import remember
from workers.process import running_worker_set
from workers.settings import WorkerSettings
from workers.wiring import Role, liveavatar_for, worker_set_for

API_KEY = "obviously-fake-liveavatar-key"


@pytest.fixture(scope="session")
def seal_key() -> SecretStr:
    """The key that workers and client share."""
    key = Seal.new_key()
    remember(key.get_secret_value(), "a seal key")
    return key


@pytest.fixture(scope="session")
def seal(seal_key: SecretStr) -> Seal:
    """Decrypts what the workers encrypted."""
    return Seal([seal_key])


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``short.wav``, ``long.wav``, and ``words.wav``, which holds no audio."""
    folder = tmp_path_factory.mktemp("clips")
    for name, milliseconds in {"short": SHORT_MS, "long": LONG_MS}.items():
        samples = np.zeros(24 * milliseconds, dtype=np.int16)
        soundfile.write(folder / f"{name}.wav", samples, 24_000)
    (folder / "words.wav").write_text("no audio")
    return folder


@pytest_asyncio.fixture(scope="session")
async def _simulator(livekit: LiveKitServer) -> AsyncIterator[LiveAvatarSimulator]:
    settings = SimulatorSettings.model_validate(
        {
            "api_keys": [API_KEY],
            "port": 0,
            "media_port": 0,
            "join_rooms": False,  # the client sees no difference, and media takes much CPU time
            "livekit_url": livekit.url,
            "livekit_api_key": livekit.api_key,
            "livekit_api_secret": livekit.api_secret,
            "start_delay_s": 0.0,
            "connect_delay_s": 0.0,
            "speak_start_latency_s": 0.0,
            "interrupt_delay_s": 0.0,
            "calls_per_s": 0,
        }
    )
    async with LiveAvatarSimulator(settings) as simulator:
        yield simulator


@pytest.fixture
def simulator(_simulator: LiveAvatarSimulator) -> Iterator[LiveAvatarSimulator]:
    """The simulator; faults that a test sets are removed after it."""
    yield _simulator
    _simulator.faults = Faults()


@pytest.fixture(scope="session")
def worker_settings(
    livekit: LiveKitServer,
    _simulator: LiveAvatarSimulator,
    seal_key: SecretStr,
    clip_folder: Path,
) -> WorkerSettings:
    """The workers' settings."""
    return WorkerSettings.model_validate(
        {
            "LIVEAVATAR_API_KEY": API_KEY,
            "LIVEAVATAR_API_URL": _simulator.url,
            "LIVEKIT_URL": livekit.url,
            "LIVEKIT_API_KEY": livekit.api_key,
            "LIVEKIT_API_SECRET": livekit.api_secret,
            "AVATAR_SESSIONS_SEAL_KEYS": seal_key.get_secret_value(),
            "AVATAR_SESSIONS_CLIP_FOLDER": str(clip_folder),
            "AVATAR_SESSIONS_DRAIN_TIMEOUT_S": 5,
        }
    )


@contextlib.asynccontextmanager
async def running_workers(client: Client, settings: WorkerSettings) -> AsyncIterator[None]:
    """Run workers of all roles in this process."""
    async with (
        liveavatar_for(settings) as liveavatar,
        running_worker_set(
            worker_set_for(Role.ALL, client, settings, liveavatar), settings.drain_timeout_s
        ),
    ):
        yield


@pytest_asyncio.fixture(scope="session")
async def client(
    temporal: TemporalServer, worker_settings: WorkerSettings
) -> AsyncIterator[Client]:
    """A Temporal client of this folder's namespace, with workers in it."""
    client = await temporal.new_namespace("client")
    async with running_workers(client, worker_settings):
        yield client


@pytest_asyncio.fixture
async def staging(
    temporal: TemporalServer, worker_settings: WorkerSettings
) -> AsyncIterator[Client]:
    """A client of a namespace whose workers poll the task queue ``avatars-staging``."""
    client = await temporal.new_namespace("staging")
    settings = worker_settings.model_copy(update={"task_queue": "avatars-staging"})
    async with running_workers(client, settings):
        yield client


@pytest_asyncio.fixture
async def sessions(client: Client, seal: Seal) -> AsyncIterator[AvatarSessions]:
    """A client with workers; sessions that a test leaves running are ended after it."""
    sessions = AvatarSessions(client, seal)
    yield sessions
    async for session in sessions.list():
        await session.end()


@pytest.fixture
def key() -> str:
    """A session key that is not in use."""
    return f"k-{uuid4().hex[:12]}"


@pytest.fixture
def request_() -> SessionRequest:
    """The request of most tests."""
    return wanted()
