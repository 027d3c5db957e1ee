"""Which runs there are, in which order, and which may happen at once. Starts nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from chaos.fault import Fault, Load
from chaos.world import Layout, Place

TIGHT_AT_ONCE: Final = 3
WORLDS_AT_ONCE: Final = 30
WORLD_BYTES: Final = 512 * 1024 * 1024
"""What a world takes of memory: four processes of 85 MiB, and a Temporal server (measured)."""
COST: Final = {Load.ALONE: 1, Load.TIGHT: 1, Load.WORKS: 2, Load.WAITS: 1}
TOGETHER_S: Final = 600.0
"""About how long all that may happen together takes: only the order comes from it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run to come, or a chain of runs that meet the same sessions."""

    fault: Fault
    layout: Layout
    number: int
    at: float
    """Where it stands among its row's: 0 is the first, nearly 1 the last."""
    times: int = 1
    """How many runs it is."""

    @property
    def kind_of_world(self) -> tuple[Layout, Place]:
        """Worlds of one kind serve one run after the other."""
        return self.layout, self.fault.place


@dataclass(frozen=True, slots=True)
class Phase:
    """Jobs that may share the machine, in their order."""

    jobs: tuple[Job, ...]
    width: int
    """How much of it may happen at once; `COST` says what each takes."""
    starts_at_once: int = 1
    """Of Python processes, each of which takes a core."""


def jobs_of(
    faults: Collection[Fault], layouts: Collection[Layout], rounds: int
) -> dict[tuple[str, Layout], list[Job]]:
    """The runs of each row, rows in the order of the faults. A fault that has none of the layouts
    asked for, or needs what is not here, is left out."""
    rows: dict[tuple[str, Layout], list[Job]] = {}
    for fault in faults:
        if fault.missing() is not None:
            continue
        for layout in fault.layouts:
            if layout in layouts:
                rows[fault.name, layout] = [
                    Job(fault, layout, number, number / rounds, min(fault.chain, rounds - number))
                    for number in range(0, rounds, fault.chain)
                ]
    return rows


def phases_of(jobs: Collection[Job], width: int) -> list[Phase]:
    """First what needs the machine alone, then what is tight, then everything else at once."""

    def of(*loads: Load) -> list[Job]:
        return [job for job in jobs if job.fault.load in loads]

    phases = (
        Phase(_by_world(of(Load.ALONE)), 1),
        Phase(_by_world(of(Load.TIGHT)), TIGHT_AT_ONCE),
        Phase(_evenly(of(Load.WORKS, Load.WAITS)), max(width, *COST.values()), 2),
    )
    return [phase for phase in phases if phase.jobs]


def width_for(free_bytes: int) -> int:
    """How many worlds may be there at once, with so much memory free."""
    return max(1, min(WORLDS_AT_ONCE, free_bytes // WORLD_BYTES))


def _by_world(jobs: Sequence[Job]) -> tuple[Job, ...]:
    return tuple(sorted(jobs, key=lambda one: (one.kind_of_world, one.fault.name, one.number)))


def _evenly(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Each row lies evenly over the time there is, and its last run begins early enough to end in
    it: so that starts of processes do not come in crowds, and no long wait is left for the end."""

    def place(job: Job) -> tuple[float, float, str, Layout]:
        begins_s = job.at * max(0.0, TOGETHER_S - job.fault.takes_s)
        return begins_s, -job.fault.takes_s, job.fault.name, job.layout

    return tuple(sorted(jobs, key=place))


class Gate:
    """Lets runs in as long as there is room; who came first goes first."""

    def __init__(self, width: int) -> None:
        self._left = width
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
