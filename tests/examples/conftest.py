"""The whole product, a session, and the example agent in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
import soxr

from avatar_sessions import AvatarSessions, Seal, Session
from chaos.cpu_gate import CpuGate
from deploy.local.livekit import LiveKitServer
from deploy.local.settings import ROOT
from deploy.local.temporal import TemporalServer
from examples.echo_agent import READY
from examples.voice.endpointing import Pcm
from liveavatar_simulator import LiveAvatarSimulator
from tests.support.browser import browser, livekit_client, playwright  # noqa: F401 (fixtures)
from tests.support.platforms.in_process import API_KEY, running_workers, simulator_settings
from tests.support.platforms.product import Product, RunningAgent, StartAgent, worker_settings
from tests.support.scheduling import ALONE, group_of
from tests.support.secret_scan import remember
from tests.support.speech.person import RATE_HZ


@pytest_asyncio.fixture(scope="session")
async def product(
    temporal: TemporalServer, livekit: LiveKitServer, run_folder: Path
) -> AsyncIterator[Product]:
    client = await temporal.new_namespace()
    key = Seal.new_key()
    remember(key.get_secret_value(), "a seal key")
    remember(API_KEY, "the API key")
    async with LiveAvatarSimulator(simulator_settings(livekit)) as simulator:
        settings = worker_settings(simulator, livekit, key)
        async with running_workers(client, settings):
            environment = {
                **temporal.environment,
                "TEMPORAL_NAMESPACE": client.namespace,
                "AVATAR_SESSIONS_SEAL_KEYS": key.get_secret_value(),
            }
            sessions = AvatarSessions(client, Seal([key]))
            yield Product(sessions, environment, run_folder, simulator)


@pytest_asyncio.fixture(autouse=True)
async def _idle_machine(request: pytest.FixtureRequest) -> None:
    """Start a comparison of sound when the other processes of the run have become silent."""
    if group_of(request.node.nodeid) == ALONE:
        await CpuGate(min_idle=0.4, max_wait_s=15).wait_for_idle()


@pytest.fixture
def start_agent(product: Product) -> StartAgent:
    """Starts agents as documented; those that a test leaves running are killed."""

    @contextlib.asynccontextmanager
    async def start(session_key: str) -> AsyncIterator[RunningAgent]:
        log = product.logs / f"agent-{session_key}-{uuid.uuid4().hex[:4]}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "examples/echo_agent.py", session_key),
                cwd=ROOT,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **product.environment},
            )
        try:
            yield RunningAgent(process, log)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    return start


@pytest_asyncio.fixture
async def session(product: Product) -> AsyncIterator[Session]:
    """A live session."""
    session = await product.open()
    yield session
    await session.end()


@pytest_asyncio.fixture
async def agent(session: Session, start_agent: StartAgent) -> AsyncIterator[RunningAgent]:
    """The agent in that session, receiving the room's audio."""
    async with start_agent(session.key) as agent:
        await agent.until(READY)
        yield agent


@pytest.fixture(scope="session")
def words() -> Pcm:
    """Seven seconds of speech, without a pause that would end it."""
    sound, rate_hz = soundfile.read(ROOT / "demo/samples/hello.flac", dtype="int16")
    at_rate: Pcm = soxr.resample(sound, rate_hz, RATE_HZ).astype(np.int16)
    return at_rate
