"""A LiveAvatar without rooms, and owned sessions on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest_asyncio
from pydantic import SecretStr

from avatar_sessions.contract.activities import StreamResult
from avatar_sessions.contract.messages import UtteranceReport
from avatar_sessions.contract.states import Pose
from liveavatar_lite import WAYNE_AVATAR_ID, LiveAvatar, TokenRequest
from liveavatar_simulator import LiveAvatarSimulator, SessionLine, SimulatorSettings
from owner.clip_queue import ClipJob, OpenClip
from owner.session import OwnedSession, OwnerLimits, ProviderEnd

API_KEY = "obviously-fake-liveavatar-key"


@dataclass
class OwnerUnderTest:
    """An owned session that runs, and what its owner was told of it."""

    session: OwnedSession
    simulator: LiveAvatarSimulator
    provider_session_id: str
    running: asyncio.Task[StreamResult] | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    gaps_ms: list[int] = field(default_factory=list)
    lines: list[UtteranceReport] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)
    losses: int = 0

    async def speak(self, utterance_id: str, order: int, clip: OpenClip) -> UtteranceReport:
        """Have a clip said: its line."""
        return (await self.session.speak(ClipJob(utterance_id, order, clip))).report

    def was_ready(self, gap_ms: int) -> None:
        self.gaps_ms.append(gap_ms)
        self.ready.set()

    def was_lost(self) -> None:
        self.losses += 1
        self.ready.clear()

    @property
    def line(self) -> SessionLine:
        """The simulator's account of the session."""
        ledger = self.simulator.ledger()
        return next(
            one for one in ledger.sessions if str(one.session_id) == self.provider_session_id
        )


def simulator_settings(**overrides: object) -> SimulatorSettings:
    return SimulatorSettings.model_validate(
        {
            "api_keys": [API_KEY],
            "port": 0,
            "media_port": 0,
            "join_rooms": False,
            "livekit_api_secret": "an-obviously-fake-livekit-secret-of-32-bytes",
            "start_delay_s": 0.0,
            "connect_delay_s": 0.0,
            **overrides,
        }
    )


@pytest_asyncio.fixture
async def simulator() -> AsyncIterator[LiveAvatarSimulator]:
    async with LiveAvatarSimulator(simulator_settings()) as simulator:
        yield simulator


@pytest_asyncio.fixture
async def owner(simulator: LiveAvatarSimulator) -> AsyncIterator[OwnerUnderTest]:
    """A session started at the simulator, owned and connected."""
    async with owner_of(simulator) as owner:
        yield owner


@contextlib.asynccontextmanager
async def owner_of(simulator: LiveAvatarSimulator) -> AsyncIterator[OwnerUnderTest]:
    """A session started at that simulator, owned and connected."""
    async with LiveAvatar(SecretStr(API_KEY), base_url=simulator.url) as liveavatar:
        minted = await liveavatar.create_token(
            TokenRequest(avatar_id=str(UUID(WAYNE_AVATAR_ID)), is_sandbox=True)
        )
        started = await liveavatar.start_session(minted.session_token)
        assert started.ws_url is not None

        async def provider_end() -> ProviderEnd | None:
            entry = await liveavatar.get_session(minted.session_id)
            over = entry is None or entry.end_reason is not None
            return ProviderEnd(None) if over else None

        session = OwnedSession(
            key="test",
            epoch=(1, 1),
            ws_url=started.ws_url,
            limits=OwnerLimits(),
            on_ready=lambda gap_ms: held.was_ready(gap_ms),
            on_lost=lambda: held.was_lost(),
            on_line=lambda line, may_go_on: held.lines.append(line),
            on_pose=lambda pose: held.poses.append(pose),
            provider_end=provider_end,
        )
        held = OwnerUnderTest(session, simulator, minted.session_id)
        held.running = asyncio.create_task(session.run(), name="owned session")
        async with asyncio.timeout(20):
            await held.ready.wait()
        yield held
        held.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await held.running
        await session.close()
