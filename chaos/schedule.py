"""Which runs there are, in which order, and which may run at the same time. Starts nothing."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from chaos.environment.environment import EnvironmentKind, Layout
from chaos.fault import Fault, MachineLoad

MAX_TIGHT: Final = 3
MAX_ENVIRONMENTS: Final = 24
MIN_WORK_S: Final = 15.0
"""A new environment takes about this long to start; less work is left to the existing ones."""
ENVIRONMENT_BYTES: Final = 512 * 1024 * 1024
"""Memory of an environment: four processes of 85 MiB and a Temporal server (measured)."""
COST: Final = {
    MachineLoad.ALONE: 1,
    MachineLoad.TIGHT: 1,
    MachineLoad.WORKS: 2,
    MachineLoad.WAITS: 1,
}
"""How much of a phase's width a run takes."""
PHASE_S: Final = 600.0
"""Rough duration of the last phase; used only to order its jobs."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run, or a chain of runs that share the same sessions."""

    fault: Fault
    layout: Layout
    number: int
    at: float
    """Its position among its row's runs: 0 is the first, nearly 1 the last."""
    times: int = 1
    """How many runs the chain has."""

    @property
    def environment_key(self) -> tuple[Layout, EnvironmentKind]:
        """What its environment must be; jobs with equal keys can share an environment."""
        return self.layout, self.fault.environment_kind


@dataclass(frozen=True, slots=True)
class Phase:
    """Jobs that may share the machine, in order."""

    jobs: tuple[Job, ...]
    width: int
    """How much may run at the same time, in units of `COST`."""
    waits_for_cpu: bool = False
    """Whether each job waits for idle CPU before it begins."""


def jobs_of(
    faults: Collection[Fault], layouts: Collection[Layout], rounds: int
) -> dict[tuple[str, Layout], list[Job]]:
    """The jobs of each row, rows in the order of the faults.

    Omits faults that this machine cannot make, and layouts that a fault does not have.
    """
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
    """First the jobs that need the machine alone, then tight ones, then all others together."""

    def of(*loads: MachineLoad) -> list[Job]:
        return [job for job in jobs if job.fault.load in loads]

    phases = (
        Phase(_by_environment(of(MachineLoad.ALONE)), 1),
        Phase(_by_environment(of(MachineLoad.TIGHT)), MAX_TIGHT),
        Phase(_evenly(of(MachineLoad.WORKS, MachineLoad.WAITS)), max(width, *COST.values()), True),
    )
    return [phase for phase in phases if phase.jobs]


def width_for(free_bytes: int) -> int:
    """How many environments may exist at the same time with so much free memory."""
    return max(1, min(MAX_ENVIRONMENTS, free_bytes // ENVIRONMENT_BYTES))


def _by_environment(jobs: Sequence[Job]) -> tuple[Job, ...]:
    return tuple(sorted(jobs, key=lambda one: (one.environment_key, one.fault.name, one.number)))


def _evenly(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Spread each row evenly over the phase, its last run early enough to end within the phase.

    So process starts do not bunch up, and no long run is left for the end.
    """

    def position(job: Job) -> tuple[float, float, str, Layout]:
        begins_s = job.at * max(0.0, PHASE_S - job.fault.takes_s)
        return begins_s, -job.fault.takes_s, job.fault.name, job.layout

    return tuple(sorted(jobs, key=position))


EnvironmentKey = tuple[Layout, EnvironmentKind]


class Queues:
    """The jobs of a phase, by the environment they need.

    A lane runs jobs with one key, in one environment, until none is left: environments are slow to
    start.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting: dict[EnvironmentKey, deque[Job]] = {}
        for job in jobs:
            self._waiting.setdefault(job.environment_key, deque()).append(job)
        self._lanes: Counter[EnvironmentKey] = Counter()

    @contextmanager
    def lane(self) -> Iterator[EnvironmentKey | None]:
        """Open a lane for the key with the most work left per lane.

        Yields:
            the key; None: the work left is not worth another environment.
        """
        key = max(self._waiting, key=self._work_per_lane_s, default=None)
        if key is None or not self._is_worth_an_environment(key):
            yield None
            return
        self._lanes[key] += 1
        try:
            yield key
        finally:
            self._lanes[key] -= 1

    def next_of(self, key: EnvironmentKey) -> Job | None:
        """Take the next job with a key; None: none is left."""
        waiting = self._waiting[key]
        return waiting.popleft() if waiting else None

    def _is_worth_an_environment(self, key: EnvironmentKey) -> bool:
        if not self._waiting[key]:
            return False
        return not self._lanes[key] or self._work_per_lane_s(key) > MIN_WORK_S

    def _work_per_lane_s(self, key: EnvironmentKey) -> float:
        left_s = sum(job.fault.takes_s for job in self._waiting[key])
        return left_s / (self._lanes[key] + 1)


class PhaseGate:
    """Admits runs while their total cost fits, first come, first served."""

    def __init__(self, width: int) -> None:
        self._left = width
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def inside(self, cost: int) -> AsyncIterator[None]:
        """Wait until the cost fits, and occupy it for the duration of the block."""
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
