"""Which runs there are, and which may happen at once. Starts nothing and checks nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from typing import Final

from chaos.fault import Fault, Load
from chaos.world import Layout, Place

CAPACITY: Final = 12
COST: Final = {Load.WAITS: 1, Load.WORKS: 3, Load.TIGHT: 4, Load.ALONE: CAPACITY}
"""On two cores: three with tight bounds, or four that work, or twelve that wait; or one alone."""
_ORDER: Final = (Load.ALONE, Load.TIGHT, Load.WORKS, Load.WAITS)


@dataclass(frozen=True, slots=True)
class Job:
    """One run to come."""

    fault: Fault
    layout: Layout
    number: int

    @property
    def kind_of_world(self) -> tuple[Layout, Place]:
        """Worlds of one kind serve one run after the other."""
        return self.layout, self.fault.place


def jobs_of(
    faults: Collection[Fault], layouts: Collection[Layout], rounds: int
) -> dict[tuple[str, Layout], list[Job]]:
    """The runs of each row, rows in the order of the faults. A fault that has none of the layouts
    asked for is left out."""
    rows: dict[tuple[str, Layout], list[Job]] = {}
    for fault in faults:
        runs = 0 if fault.unavailable else max(1, ceil(rounds * fault.share))
        for layout in fault.layouts:
            if layout in layouts:
                rows[fault.name, layout] = [Job(fault, layout, run) for run in range(runs)]
    return rows


def in_order(jobs: Sequence[Job]) -> deque[Job]:
    """Those that need the machine first, then those that work, then the long waits."""
    return deque(
        sorted(
            jobs,
            key=lambda job: (
                _ORDER.index(job.fault.load),
                -job.fault.takes_s if job.fault.load is Load.WAITS else 0,
                job.kind_of_world,
                job.fault.name,
                job.number,
            ),
        )
    )


class Gate:
    """Lets runs in as long as there is room; who came first goes first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._left = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def inside(self, cost: int) -> AsyncIterator[None]:
        """Wait for room, and hold it for as long as the block lasts."""
        if self._waiting or cost > self._left:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (cost, turn)
            self._waiting.append(entry)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._left += cost
                else:
                    self._waiting.remove(entry)
                self._admit()
                raise
        else:
            self._left -= cost
        try:
            yield
        finally:
            self._left += cost
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._left:
            cost, turn = self._waiting.popleft()
            self._left -= cost
            turn.set_result(None)
