"""The whole product for an example, and an example agent as a process of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from avatar_sessions import AvatarSessions, OwnRoom, Session
from deploy.local.livekit import LiveKitServer
from liveavatar_simulator import LiveAvatarSimulator
from tests.support.platforms.in_process import API_KEY, wayne
from tests.support.waiting import until
from workers.settings import WorkerSettings


@dataclass
class Product:
    """Temporal, LiveKit, the simulator and workers in their own namespace."""

    sessions: AvatarSessions
    environment: dict[str, str]
    """Variables that connect another process to them."""
    logs: Path
    simulator: LiveAvatarSimulator

    async def open(self) -> Session:
        """A live session in its own LiveKit room."""
        session = await self.sessions.start(
            f"echo-{uuid.uuid4().hex[:8]}", wayne(sandbox=False, room=OwnRoom())
        )
        await session.attach()
        return session


def worker_settings(
    simulator: LiveAvatarSimulator, livekit: LiveKitServer, key: SecretStr
) -> WorkerSettings:
    return WorkerSettings.model_validate(
        {
            "LIVEAVATAR_API_KEY": API_KEY,
            "LIVEAVATAR_API_URL": simulator.url,
            "LIVEKIT_URL": livekit.url,
            "LIVEKIT_API_KEY": livekit.api_key,
            "LIVEKIT_API_SECRET": livekit.api_secret,
            "AVATAR_SESSIONS_SEAL_KEYS": key.get_secret_value(),
            "AVATAR_SESSIONS_DRAIN_TIMEOUT_S": 5,
        }
    )


class RunningAgent:
    """An example agent in its own process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def logged(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    async def until(self, words: str) -> None:
        """Wait until its log has these words."""
        await until(lambda: words in self.logged or self.process.returncode is not None)
        assert words in self.logged, self.logged

    async def ended(self) -> int:
        """Wait until it exits; the exit status."""
        return await asyncio.wait_for(self.process.wait(), 20)


StartAgent = Callable[[str], AbstractAsyncContextManager[RunningAgent]]
