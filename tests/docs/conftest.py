"""What the documentation's programs run against: real servers, workers, the simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import pytest_asyncio
import soundfile
from google.protobuf.duration_pb2 import Duration
from pydantic import SecretStr
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from avatar_sessions import AvatarSessions, Seal
from deploy.local.stack import LiveKitServer, TemporalServer
from liveavatar_lite import LiveAvatar
from liveavatar_simulator import LiveAvatarSimulator, SimulatorSettings
from tests.support.secret_scan import remember
from workers.process import ensure_search_attributes, running_worker_set
from workers.settings import WorkerSettings
from workers.wiring import Role, worker_set_for

API_KEY = "obviously-fake-liveavatar-key"
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
    namespace = f"docs-{uuid4().hex[:8]}"
    default = await temporal.client()
    await default.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace=namespace,
            workflow_execution_retention_period=Duration(seconds=24 * 3600),
        )
    )
    client = await Client.connect(
        temporal.address, namespace=namespace, data_converter=pydantic_data_converter
    )
    await ensure_search_attributes(client)
    simulated = SimulatorSettings.model_validate(
        {
            "api_keys": [API_KEY],
            "port": 0,
            "media_port": 0,
            "join_rooms": False,
            "livekit_url": livekit.url,
            "livekit_api_key": livekit.api_key,
            "livekit_api_secret": livekit.api_secret,
            "start_delay_s": 0.0,
            "connect_delay_s": 0.0,
        }
    )
    async with LiveAvatarSimulator(simulated) as simulator:
        settings = WorkerSettings.model_validate(
            {
                "LIVEAVATAR_API_KEY": API_KEY,
                "LIVEAVATAR_API_URL": simulator.url,
                "LIVEKIT_URL": livekit.url,
                "LIVEKIT_API_KEY": livekit.api_key,
                "LIVEKIT_API_SECRET": livekit.api_secret,
                "AVATAR_SESSIONS_SEAL_KEYS": seal_key.get_secret_value(),
                "AVATAR_SESSIONS_CLIP_FOLDER": str(clip_folder),
                "AVATAR_SESSIONS_DRAIN_TIMEOUT_S": 5,
            }
        )
        async with (
            LiveAvatar(settings.liveavatar_api_key, base_url=simulator.url) as liveavatar,
            running_worker_set(
                worker_set_for(Role.ALL, client, settings, liveavatar), settings.drain_timeout_s
            ),
        ):
            yield client


@pytest_asyncio.fixture
async def sessions(client: Client, seal: Seal) -> AsyncIterator[AvatarSessions]:
    """A client with workers behind it; sessions that a test leaves running end after it."""
    sessions = AvatarSessions(client, seal)
    yield sessions
    async for session in sessions.list():
        await session.end()
