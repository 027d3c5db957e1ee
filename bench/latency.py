"""How long a start takes until the avatar is live, and an interrupt until it is on the wire.

``make figures``. Real Temporal and LiveKit servers, a worker process, and the simulator with its
own delays at zero, so that what is measured is ours. Prints a table; judges nothing.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from avatar_sessions import AvatarSessions, SessionRequest
from avatar_sessions.contract.messages import Video
from avatar_sessions.seal import Seal
from deploy.local.errors import LocalError
from deploy.local.ports import free_port
from deploy.local.processes import Supervisor
from deploy.local.servers import find_livekit, find_temporal
from deploy.local.settings import LocalSettings
from deploy.local.stack import LocalStack, local_stack
from liveavatar_lite import WAYNE_AVATAR_ID

STARTS: Final = 20
INTERRUPTS: Final = 100
PAUSE_S: Final = 0.02
NO_DELAYS: Final = {
    "SIMULATOR_START_DELAY_S": "0",
    "SIMULATOR_CONNECT_DELAY_S": "0",
    "SIMULATOR_INTERRUPT_DELAY_S": "0",
}


async def measure() -> None:
    """Bring everything up, measure, print.

    Raises:
        LocalError: a server cannot be had.
    """
    # The simulator inherits its settings from this process.
    os.environ.update(NO_DELAYS)
    settings = LocalSettings(
        temporal_port=free_port(),
        temporal_ui_port=free_port(),
        livekit_port=free_port(),
        simulator_port=free_port(),
        simulator_media_port=free_port(),
    )
    sources = (find_temporal(settings, sys.stderr), find_livekit(settings, sys.stderr))
    with tempfile.TemporaryDirectory() as folder:
        logs, clips = Path(folder) / "logs", Path(folder) / "clips"
        clips.mkdir()
        async with (
            Supervisor(logs) as supervisor,
            local_stack(
                supervisor,
                sources,
                settings,
                live=False,
                clip_folder=clips,
                told=lambda name, _address, seconds: print(f"{name} up in {seconds:.1f} s"),
            ) as stack,
        ):
            client = await stack.temporal.client()
            sessions = AvatarSessions(client, Seal([stack.seal_keys]))
            await _one_start(sessions, 0)  # imports, connections, caches
            starts_ms = [await _one_start(sessions, number) for number in range(1, STARTS + 1)]
            wire_ms, reply_ms = await _interrupts(sessions, stack)
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    _row("start to LIVE (start_ms)", starts_ms)
    _row("interrupt by update, to the wire", wire_ms)
    _row("interrupt by update, to its answer", reply_ms)


def _request() -> SessionRequest:
    return SessionRequest(
        avatar_id=WAYNE_AVATAR_ID, sandbox=True, video=Video(quality="low", encoding="VP8")
    )


async def _one_start(sessions: AvatarSessions, number: int) -> float:
    session = await sessions.start(f"figure-{number}", _request())
    await session.attach()
    report = await session.end()
    assert report.start_ms is not None
    return report.start_ms


async def _interrupts(
    sessions: AvatarSessions, stack: LocalStack
) -> tuple[list[float], list[float]]:
    """Send interrupts to a silent avatar; the simulator's ledger tells when each arrived."""
    session = await sessions.start("figure-interrupts", _request())
    await session.attach()
    provider_id = (await session.status()).provider_session_id
    asked_at, reply_ms = [], []
    for _ in range(INTERRUPTS):
        asked_at.append(time.time())
        began = time.perf_counter()
        await session.interrupt()
        reply_ms.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(PAUSE_S)
    arrived_at = _arrivals(await stack.provider.ledger(), provider_id)
    await session.end()
    assert len(arrived_at) == INTERRUPTS
    pairs = zip(asked_at, arrived_at, strict=True)
    return [(arrived - asked) * 1000 for asked, arrived in pairs], reply_ms


def _arrivals(ledger: dict[str, Any], provider_id: str | None) -> list[float]:
    """When each interrupt reached LiveAvatar, in seconds of the machine's clock."""
    line = next(one for one in ledger["sessions"] if one["session_id"] == provider_id)
    started_at = datetime.fromisoformat(line["started_at"]).timestamp()
    return [
        started_at + command["at_ms"] / 1000
        for command in line["commands"]
        if command["type"] == "agent.interrupt"
    ]


def _row(name: str, figures_ms: Sequence[float]) -> None:
    ordered = sorted(figures_ms)
    p90 = ordered[int(len(ordered) * 0.9)]
    print(
        f"{name:38} n {len(ordered):3}   p50 {statistics.median(ordered):6.1f} ms"
        f"   p90 {p90:6.1f} ms   max {ordered[-1]:6.1f} ms"
    )


def main() -> int:
    """Measure; exit status 1 with one sentence when a server cannot be had."""
    try:
        asyncio.run(measure())
    except LocalError as error:
        print("\n".join((*error.detail, error.sentence)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
