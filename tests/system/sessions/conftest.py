"""The whole product under test: real Temporal and LiveKit servers, the simulator, real workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform as machine
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
from google.protobuf.duration_pb2 import Duration
from pydantic import SecretStr
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from avatar_sessions import AvatarSessions, Session, SessionReport, SessionRequest
from avatar_sessions.contract import names
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.seal import Seal
from deploy.local.settings import ROOT
from deploy.local.stack import LiveKitServer, TemporalServer
from liveavatar_lite import WAYNE_AVATAR_ID
from liveavatar_simulator import LiveAvatarSimulator, SimulatorSettings
from tests.support.secret_scan import remember
from workers.process import CannotStart, ensure_search_attributes, running_worker_set
from workers.settings import WorkerSettings
from workers.wiring import Role, liveavatar_for, worker_set_for

API_KEY = "obviously-fake-liveavatar-key"


HISTORIES = Path(__file__).parent / "histories"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-histories",
        action="store_true",
        help="write a history of every way to end into tests/sessions/histories",
    )


@dataclass
class Platform:
    """What a test needs of the world."""

    simulator: LiveAvatarSimulator
    sessions: AvatarSessions
    client: Client
    settings: WorkerSettings
    clip_folder: Path
    records: bool = field(default=False, kw_only=True)
    """Whether histories are to be kept: ``--record-histories``."""

    async def start(self, **request: object) -> Session:
        """Start a sandbox session under a new key."""
        return await self.sessions.start(new_key(), wayne(**request))


def new_key() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


def wayne(**request: object) -> SessionRequest:
    """A request for the sandbox avatar in small video, so that two cores suffice."""
    return SessionRequest.model_validate(
        {
            "avatar_id": WAYNE_AVATAR_ID,
            "sandbox": True,
            "video": {"quality": "low", "encoding": "VP8"},
            **request,
        }
    )


@pytest.fixture(scope="session")
def seal_key() -> SecretStr:
    key = Seal.new_key()
    remember(key.get_secret_value(), "a seal key")
    remember(API_KEY, "the API key")
    return key


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 0.6 s, 3 s and 12 s of tone, and something that is no audio."""
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds in {"short": 0.6, "middle": 3.0, "long": 12.0}.items():
        t = np.arange(int(24_000 * seconds)) / 24_000
        soundfile.write(folder / f"{name}.wav", 0.4 * np.sin(2 * np.pi * 220 * t), 24_000)
    (folder / "words.wav").write_text("no audio")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _log_of_the_run(run_folder: Path) -> None:
    """Everything this process logs, in a file that the secret scan reads."""
    handler = logging.FileHandler(run_folder / "tests.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


@pytest_asyncio.fixture(scope="session")
async def simulator(livekit: LiveKitServer) -> AsyncIterator[LiveAvatarSimulator]:
    """A simulator with its delays at zero and plans that do not stand in the way."""
    async with LiveAvatarSimulator(simulator_settings(livekit)) as simulator:
        yield simulator


def simulator_settings(livekit: LiveKitServer, **overrides: object) -> SimulatorSettings:
    return SimulatorSettings.model_validate(
        {
            "api_keys": [API_KEY],
            "port": 0,
            "media_port": 0,
            "livekit_url": livekit.url,
            "livekit_api_key": livekit.api_key,
            "livekit_api_secret": livekit.api_secret,
            "start_delay_s": 0.0,
            "connect_delay_s": 0.0,
            "concurrency_limit": 50,
            "fps": 10,
            **overrides,
        }
    )


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


@contextlib.asynccontextmanager
async def running_workers(
    client: Client, settings: WorkerSettings, role: Role = Role.ALL
) -> AsyncIterator[None]:
    """Workers of this test process."""
    await ensure_search_attributes(client)
    async with (
        liveavatar_for(settings) as liveavatar,
        running_worker_set(
            worker_set_for(role, client, settings, liveavatar), settings.drain_timeout_s
        ),
    ):
        yield


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
    """One live session for tests that do not change it."""
    session = await platform.start(sandbox=False, max_duration_s=1200)
    await session.attach()
    yield session
    await session.end()


async def own_namespace(temporal: TemporalServer) -> Client:
    """A client on a fresh namespace: workers there see nobody else's sessions."""
    client = await temporal.client()
    name = f"ns-{uuid.uuid4().hex[:12]}"
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace=name, workflow_execution_retention_period=Duration(seconds=86_400)
        )
    )
    elsewhere = await Client.connect(
        temporal.address, namespace=name, data_converter=pydantic_data_converter
    )
    give_up = time.monotonic() + 30  # caches of the server learn of a namespace in seconds
    while True:
        try:
            await ensure_search_attributes(elsewhere)
            await elsewhere.count_workflows()
        except (RPCError, CannotStart):
            assert time.monotonic() < give_up, "the namespace does not appear"
            await asyncio.sleep(0.2)
        else:
            return elsewhere


async def record_histories(client: Client, *, suffix: str = "") -> None:
    """Keep one history of every way to end, told apart by what happened on the way."""
    HISTORIES.mkdir(exist_ok=True)
    wanted = f"ExecutionStatus = 'Completed' AND WorkflowType = '{names.WORKFLOW_TYPE}'"
    async for execution in client.list_workflows(wanted):
        handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
        report = SessionReport.model_validate(await handle.result())
        history = await handle.fetch_history()
        name = report.end_reason.value
        if not suffix and len(report.generations) > 1:
            name += "+lost_start_reply"
        name += suffix
        if report.takeovers:
            name += "+taken_over"
        if report.reconnects:
            name += "+recovered"
        if any(one.outcome is UtteranceOutcome.INTERRUPTED for one in report.utterances):
            name += "+interrupted"
        # Stack traces and identities name the machine that recorded.
        text = history.to_json().replace(f"@{machine.node()}", "@host")
        for folder in (ROOT, sys.base_prefix):
            text = text.replace(f"{folder}/", "")
        (HISTORIES / f"{name}.json").write_text(text + "\n")
