"""Workers as real processes, which a test kills, stops or drains by signals."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avatar_sessions import Session
from deploy.local.settings import ROOT
from deploy.local.stack import LiveKitServer, TemporalServer
from tests.support.platform import Platform
from workers.settings import WorkerSettings
from workers.wiring import Role


@contextmanager
def worker_process(
    platform: Platform, temporal: TemporalServer, livekit: LiveKitServer, role: Role, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A real worker process; killed at the end if it still runs."""
    settings: WorkerSettings = platform.settings
    environment = {
        **os.environ,
        "TEMPORAL_ADDRESS": temporal.address,
        "TEMPORAL_NAMESPACE": platform.client.namespace,
        "LIVEAVATAR_API_KEY": settings.liveavatar_api_key.get_secret_value(),
        "LIVEAVATAR_API_URL": settings.liveavatar_api_url,
        "LIVEKIT_URL": livekit.url,
        "LIVEKIT_API_KEY": livekit.api_key,
        "LIVEKIT_API_SECRET": livekit.api_secret,
        "AVATAR_SESSIONS_SEAL_KEYS": settings.seal_keys[0].get_secret_value(),
        "AVATAR_SESSIONS_CLIP_FOLDER": str(platform.clip_folder),
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers", "--role", role],
            env=environment,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=20)


def wait_for_exit(process: subprocess.Popen[bytes]) -> int:
    return process.wait(timeout=30)


async def until_worker_ready(log: Path) -> None:
    give_up = time.monotonic() + 30
    while b"worker ready" not in log.read_bytes():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.1)


async def until_later_owner(session: Session, beyond: tuple[int, int], within_s: float) -> None:
    """Wait until a later owner than the one named is ready."""
    give_up = time.monotonic() + within_s
    while True:
        status = await session.status()
        if status.epoch is not None and tuple(status.epoch) > beyond and status.state == "LIVE":
            return
        assert time.monotonic() < give_up, status
        await asyncio.sleep(0.1)


async def heard_by_liveavatar_ms(platform: Platform, session: Session) -> float:
    """What the avatar played, by the simulator's ledger."""
    provider_id = (await session.status()).provider_session_id
    lines = platform.simulator.ledger().sessions
    line = next(one for one in lines if str(one.session_id) == provider_id)
    return sum(one.played_ms for one in line.utterances)
