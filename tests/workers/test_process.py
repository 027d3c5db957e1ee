"""Signals to a worker process whose Temporal server does not answer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avatar_sessions.seal import Seal
from deploy.local.settings import ROOT

pytestmark = pytest.mark.slow  # starts processes

DRAIN_TIMEOUT_S = 4


@pytest.mark.parametrize("times", [1, 2])
async def test_a_worker_that_is_stopped_while_it_connects_exits_in_time(
    tmp_path: Path, times: int
) -> None:
    """Temporal took the connection and said nothing. SIGTERM was heard only when the thirty
    seconds for that were over: long after the time that a process has to go."""
    said_nothing = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said_nothing.set()
        await reader.read()
        writer.close()

    log = tmp_path / "worker.log"
    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        environment = {
            **os.environ,
            "TEMPORAL_ADDRESS": f"{host}:{port}",
            "LIVEAVATAR_API_KEY": "obviously-fake-liveavatar-key",
            "LIVEAVATAR_API_URL": "http://127.0.0.1:9",
            "AVATAR_SESSIONS_SEAL_KEYS": Seal.new_key().get_secret_value(),
            "AVATAR_SESSIONS_DRAIN_TIMEOUT_S": str(DRAIN_TIMEOUT_S),
        }
        with log.open("wb") as out:
            process = subprocess.Popen(  # noqa: ASYNC220 - it only starts it
                [sys.executable, "-m", "workers", "--role", "streams"],
                env=environment,
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            await asyncio.wait_for(said_nothing.wait(), 30)
            told_s = time.monotonic()
            for _ in range(times):
                process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.2)
            status = await asyncio.to_thread(process.wait, 20)
            took_s = time.monotonic() - told_s
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    assert took_s < DRAIN_TIMEOUT_S + 3, log.read_text()
    assert times == 2 or status == 0
