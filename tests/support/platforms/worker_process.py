"""Workers as real processes, which a test kills, stops or drains by signals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from avatar_sessions import Session
from deploy.local.livekit import LiveKitServer
from deploy.local.processes import Child, Supervisor
from deploy.local.simulator import LiveAvatarEndpoint
from deploy.local.temporal import TemporalServer
from deploy.local.worker import start_worker, worker_settings
from tests.support.platforms.in_process import Platform
from workers.settings import WorkerSettings
from workers.wiring import Role


@asynccontextmanager
async def worker_process(
    platform: Platform, temporal: TemporalServer, livekit: LiveKitServer, role: Role, log: Path
) -> AsyncIterator[Child]:
    """A worker process that is ready; killed at the end if it still runs."""
    settings = worker_settings(
        LiveAvatarEndpoint(
            platform.settings.liveavatar_api_url, platform.settings.liveavatar_api_key
        ),
        livekit,
        platform.settings.seal_keys[0],
        AVATAR_SESSIONS_CLIP_FOLDER=str(platform.clip_folder),
    )
    there = replace(temporal, namespace=platform.client.namespace)
    async with killable_worker(role, settings, there, log) as child:
        yield child


@asynccontextmanager
async def killable_worker(
    role: Role, settings: WorkerSettings, temporal: TemporalServer, log: Path
) -> AsyncIterator[Child]:
    """As `worker_process`, with settings of its own."""
    async with Supervisor(log.parent) as supervisor:
        yield await start_worker(supervisor, role, settings, temporal, name=log.stem, needed=False)
        supervisor.kill_at_once()


async def until_later_owner(session: Session, beyond: tuple[int, int], within_s: float) -> None:
    """Wait until an owner with a later epoch is ready."""
    give_up = time.monotonic() + within_s
    while True:
        status = await session.status()
        if status.epoch is not None and tuple(status.epoch) > beyond and status.state == "LIVE":
            return
        assert time.monotonic() < give_up, status
        await asyncio.sleep(0.1)


async def heard_by_liveavatar_ms(platform: Platform, session: Session) -> float:
    """Milliseconds of speech that the avatar played, by the simulator's ledger."""
    provider_id = (await session.status()).provider_session_id
    lines = platform.simulator.ledger().sessions
    line = next(one for one in lines if str(one.session_id) == provider_id)
    return sum(one.played_ms for one in line.utterances)


async def until_heard(platform: Platform, session: Session, milliseconds: float) -> None:
    """Wait until the avatar has played so much, by the simulator's ledger: at most 30 s."""
    give_up_s = time.monotonic() + 30
    while (heard_ms := await heard_by_liveavatar_ms(platform, session)) < milliseconds:
        assert time.monotonic() < give_up_s, f"{heard_ms:.0f} of {milliseconds:.0f} ms were played"
        await asyncio.sleep(0.1)
