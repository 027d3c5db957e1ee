"""The product in one test process: a simulator, workers in a namespace, and a client.

Temporal and LiveKit are the run's shared servers; worker processes are in `worker_process`.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from temporalio.client import Client

from avatar_sessions import AvatarSessions, Clip, Session, SessionRequest
from deploy.local.livekit import LiveKitServer
from liveavatar_lite import WAYNE_AVATAR_ID
from liveavatar_simulator import LiveAvatarSimulator, SimulatorSettings
from workers.process import running_worker_set
from workers.search_attributes import ensure_search_attributes
from workers.settings import WorkerSettings
from workers.wiring import Role, liveavatar_for, worker_set_for

API_KEY = "obviously-fake-liveavatar-key"
SHORT, MIDDLE, LONG = (Clip(file=f"{name}.wav") for name in ("short", "middle", "long"))
"""Tones of 0.6 s, 3 s and 12 s in the clip folder."""


@dataclass
class Platform:
    """A simulator, workers that use it, and a client of their namespace."""

    simulator: LiveAvatarSimulator
    sessions: AvatarSessions
    client: Client
    settings: WorkerSettings
    clip_folder: Path
    records: bool = field(default=False, kw_only=True)
    """Whether histories are written: ``--record-histories``."""

    async def start(self, **request: object) -> Session:
        """Start a sandbox session under a new key."""
        return await self.sessions.start(new_key(), wayne(**request))


def new_key() -> str:
    """A session key that no other test uses."""
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


@contextlib.asynccontextmanager
async def running_workers(
    client: Client, settings: WorkerSettings, role: Role = Role.ALL
) -> AsyncIterator[None]:
    """Workers in this process."""
    await ensure_search_attributes(client)
    async with (
        liveavatar_for(settings) as liveavatar,
        running_worker_set(
            worker_set_for(role, client, settings, liveavatar), settings.drain_timeout_s
        ),
    ):
        yield


async def history_length(platform: Platform, session: Session) -> int:
    """The number of events in a session's history."""
    described = await platform.client.get_workflow_handle(session.workflow_id).describe()
    return described.history_length
