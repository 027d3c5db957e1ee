"""Time from the start of a session to a live avatar, one at a time and many concurrently.

LiveAvatar's own time (0.6 s and more) is not included: the simulator has no delays here.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from avatar_sessions import AvatarSessions
from bench.lab import Lab, new_key, request
from bench.table import FigureRow, spread

NAME: Final = "start"
P50_MS: Final = 120.0
P99_MS: Final = 250.0
STARTS: Final = 100
CONCURRENT: Final = 20
WAVES: Final = 5


async def measure(lab: Lab) -> list[FigureRow]:
    """Open sessions with the client, as a backend does; then many concurrently."""
    sessions = await lab.sessions()
    starts, waves = (STARTS // 5, WAVES // 2) if lab.quick else (STARTS, WAVES)
    alone = [await _one(sessions) for _ in range(starts)]
    together = [each for _ in range(waves) for each in await _wave(sessions)]
    return [
        spread(
            NAME,
            "open() to its answer: live, one at a time",
            [open_ms for open_ms, _ in alone],
            "ms",
            p50_at_most=P50_MS,
            p99_at_most=P99_MS,
        ),
        spread(NAME, "start_ms of the report, one at a time", [each for _, each in alone], "ms"),
        spread(
            NAME,
            f"open() to its answer: live, {CONCURRENT} together",
            [open_ms for open_ms, _ in together],
            "ms",
        ),
        spread(
            NAME,
            f"start_ms of the report, {CONCURRENT} together",
            [each for _, each in together],
            "ms",
        ),
    ]


async def _one(sessions: AvatarSessions) -> tuple[float, float]:
    """Milliseconds that the caller waited, and `start_ms` of the session's report."""
    began_s = time.perf_counter()
    session, _ = await sessions.open(new_key(), request())
    open_ms = (time.perf_counter() - began_s) * 1000
    report = await session.end()
    assert report.start_ms is not None
    return open_ms, float(report.start_ms)


async def _wave(sessions: AvatarSessions) -> list[tuple[float, float]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_one(sessions), name="bench-start") for _ in range(CONCURRENT)]
    return [task.result() for task in tasks]
