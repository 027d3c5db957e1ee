"""The command as a process: one line when ready, one sentence on failure, a clean exit."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow  # starts processes

ROOT = Path(__file__).parents[2]


async def run(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    """Start the simulator on free ports."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "liveavatar_simulator", *arguments),
        cwd=ROOT,
        env=os.environ | {"SIMULATOR_PORT": "0", "SIMULATOR_MEDIA_PORT": "0"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def failure_of(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Exit status and stderr of the process, at its end."""
    async with asyncio.timeout(30):
        _, errors = await process.communicate()
    return process.returncode, errors.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_prints_its_url_and_exits_cleanly_on_a_signal(number: signal.Signals) -> None:
    process = await run("--no-livekit")
    assert process.stdout is not None
    async with asyncio.timeout(30):
        line = (await process.stdout.readline()).decode()
    url = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert url is not None, line
    async with httpx.AsyncClient(trust_env=False) as client:
        ledger = (await client.get(f"{url[0]}/simulator/ledger")).json()
    began_s = time.monotonic()

    process.send_signal(number)
    status, errors = await failure_of(process)

    assert ledger["open"] == 0
    assert (status, errors) == (0, "")
    assert time.monotonic() - began_s < 8


async def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, errors = await failure_of(await run("--no-livekit", "--port", str(port)))

    assert status == 3
    assert f"port {port} on 127.0.0.1 is in use" in errors
    assert len(errors.splitlines()) == 1


async def test_no_livekit_is_one_sentence() -> None:
    status, errors = await failure_of(await run("--livekit-url", "ws://127.0.0.1:9"))

    assert status == 4
    assert "LiveKit at ws://127.0.0.1:9 cannot be used" in errors
    assert len(errors.splitlines()) == 1


async def test_a_bad_setting_is_named() -> None:
    status, errors = await failure_of(await run("--no-livekit", SIMULATOR_FPS="many"))

    assert status == 2
    assert "SIMULATOR_FPS" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("missing", ["fastapi", "livekit", "jwt", "uvicorn"])
async def test_without_its_extra_one_sentence_names_the_extra(missing: str) -> None:
    """Installed without the extra, the command ended in a traceback of an import."""
    program = (
        f"import sys; sys.modules[{missing!r}] = None;"
        "from liveavatar_simulator.cli import main; sys.exit(main(['--no-livekit']))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    status, errors = await failure_of(process)

    assert status == 2
    assert "pip install 'liveavatar-sessions[simulator]'" in errors
    assert missing in errors
    assert len(errors.splitlines()) == 1
