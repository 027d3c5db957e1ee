"""Time from the interrupt call to the arrival of the interrupt at the simulator.

By signal (durable once it returns, no answer) and by update (its answer confirms that the interrupt
is on the wire). The simulator's tape has the arrival times; both clocks are this machine's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from avatar_sessions import Session
from avatar_sessions.contract.messages import Interrupt
from bench.lab import Lab, new_key, request
from bench.table import FigureRow, spread

NAME: Final = "interrupt"
P50_MS: Final = 20.0
P99_MS: Final = 50.0
INTERRUPTS: Final = 300
PAUSE_S: Final = 0.05
"""Pause between interrupts, so that none waits for the previous one."""
ARRIVE_WITHIN_S: Final = 10.0

Call = Callable[[Session], Awaitable[object]]


async def measure(lab: Lab) -> list[FigureRow]:
    """Interrupt a silent avatar repeatedly, first by signal, then by update."""
    count = INTERRUPTS // 5 if lab.quick else INTERRUPTS
    signal_ms, _ = await _to_the_wire(lab, lambda session: session.send(Interrupt()), count)
    update_ms, reply_ms = await _to_the_wire(lab, lambda session: session.interrupt(), count)
    return [
        _row("by signal, to the wire", signal_ms),
        _row("by update, to the wire", update_ms),
        spread(NAME, "by update, to its answer", reply_ms, "ms"),
    ]


def _row(what: str, figures_ms: list[float]) -> FigureRow:
    return spread(NAME, what, figures_ms, "ms", p50_at_most=P50_MS, p99_at_most=P99_MS)


async def _to_the_wire(lab: Lab, call: Call, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds until each interrupt arrived, and until each call returned."""
    session, _ = await (await lab.sessions()).open(new_key(), request())
    provider_id = (await session.status()).provider_session_id
    asked_at: list[float] = []
    returned_ms: list[float] = []
    for _ in range(count):
        asked_at.append(time.time())
        began_s = time.perf_counter()
        await call(session)
        returned_ms.append((time.perf_counter() - began_s) * 1000)
        await asyncio.sleep(PAUSE_S)
    async with asyncio.timeout(ARRIVE_WITHIN_S):
        while len(arrived_at := await _arrivals(lab, provider_id)) < count:
            await asyncio.sleep(PAUSE_S)
    await session.end()
    pairs = zip(asked_at, arrived_at, strict=True)
    return [(arrived - asked) * 1000 for asked, arrived in pairs], returned_ms


async def _arrivals(lab: Lab, provider_id: str | None) -> list[float]:
    """When each interrupt reached the simulator, in wall-clock seconds."""
    ledger = await (await lab.stack()).liveavatar.ledger()
    line = next(each for each in ledger["sessions"] if each["session_id"] == provider_id)
    started_at = datetime.fromisoformat(line["started_at"]).timestamp()
    return [
        started_at + command["at_ms"] / 1000
        for command in line["commands"]
        if command["type"] == "agent.interrupt"
    ]
