"""Which runs there are, in which order, and how many at the same time."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace

import pytest

from chaos.environment.environment import Layout
from chaos.fault import BOTH, Fault, MachineLoad
from chaos.run import FaultRun
from chaos.schedule import COST, Job, PhaseGate, Queues, jobs_of, phases_of, width_for
from tests.support.waiting import until


async def nothing(run: FaultRun) -> None: ...


FAULT = Fault(name="some", what="", inject=nothing, bound_ms=None, layouts=BOTH)


def test_a_row_has_as_many_runs_as_asked_for() -> None:
    rows = jobs_of([FAULT], list(Layout), 3)
    assert {row: len(jobs) for row, jobs in rows.items()} == {
        ("some", Layout.ALL): 3,
        ("some", Layout.SPLIT): 3,
    }


def test_a_chain_of_runs_is_one_job_and_counts_as_many() -> None:
    chained = replace(FAULT, chain=8, layouts=(Layout.ALL,))
    jobs = jobs_of([chained], list(Layout), 20)["some", Layout.ALL]
    assert [job.times for job in jobs] == [8, 8, 4]


def test_a_layout_that_is_not_asked_for_has_no_row() -> None:
    assert list(jobs_of([FAULT], [Layout.SPLIT], 1)) == [("some", Layout.SPLIT)]


def test_a_fault_that_this_machine_cannot_make_is_omitted() -> None:
    assert jobs_of([replace(FAULT, missing=lambda: "get it")], [Layout.ALL], 5) == {}


def jobs(*faults: Fault, rounds: int = 1) -> list[Job]:
    rows = jobs_of(faults, [Layout.ALL], rounds)
    return [job for row in rows.values() for job in row]


def test_phases_run_alone_then_tight_then_the_rest() -> None:
    phases = phases_of(
        jobs(
            replace(FAULT, name="waits", load=MachineLoad.WAITS),
            replace(FAULT, name="tight", load=MachineLoad.TIGHT),
            replace(FAULT, name="works", load=MachineLoad.WORKS),
            replace(FAULT, name="alone", load=MachineLoad.ALONE),
        ),
        width=30,
    )
    assert [{job.fault.name for job in phase.jobs} for phase in phases] == [
        {"alone"},
        {"tight"},
        {"waits", "works"},
    ]
    assert [phase.width for phase in phases] == [1, 3, 30]


def test_a_phase_is_wide_enough_for_the_most_expensive_run() -> None:
    (phase,) = phases_of(jobs(replace(FAULT, load=MachineLoad.WORKS)), width=1)
    assert phase.width >= COST[MachineLoad.WORKS]


def test_rows_are_spread_evenly_and_end_together() -> None:
    (phase,) = phases_of(
        jobs(
            replace(FAULT, name="short", load=MachineLoad.WAITS, takes_s=6),
            replace(FAULT, name="long", load=MachineLoad.WAITS, takes_s=300),
            rounds=3,
        ),
        width=1,
    )
    names = [job.fault.name for job in phase.jobs]
    assert names == ["long", "short", "long", "short", "long", "short"]


@pytest.mark.parametrize(("gib", "environments"), [(0.1, 1), (4, 8), (64, 24)])
def test_memory_limits_the_number_of_environments(gib: float, environments: int) -> None:
    assert width_for(int(gib * 2**30)) == environments


def test_a_lane_opens_where_most_work_is_left_per_lane() -> None:
    split = replace(FAULT, takes_s=100, layouts=(Layout.SPLIT,))
    all_roles = replace(FAULT, takes_s=40, layouts=(Layout.ALL,))
    rows = jobs_of([split, replace(all_roles, name="other")], list(Layout), 3)
    queues = Queues([job for row in rows.values() for job in row])
    with ExitStack() as lanes:
        served = [lanes.enter_context(queues.lane()) for _ in range(4)]
    assert [key and key[0] for key in served] == ["split", "split", "all", "split"]


def test_little_work_starts_no_further_environment() -> None:
    queues = Queues(jobs(replace(FAULT, takes_s=10), rounds=2))
    with queues.lane() as key, queues.lane() as no_key:
        assert key is not None
        assert no_key is None
        assert queues.next_of(key) is not None
        assert queues.next_of(key) is not None
        assert queues.next_of(key) is None


async def test_the_most_expensive_run_is_alone() -> None:
    gate, inside, most = PhaseGate(12), set[str](), list[set[str]]()
    go_on = asyncio.Event()

    async def run(name: str, cost: int) -> None:
        async with gate.inside(cost):
            inside.add(name)
            most.append(set(inside))
            await go_on.wait()
            inside.discard(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(run("a", 4))
        group.create_task(run("b", 4))
        await until(lambda: inside == {"a", "b"})
        group.create_task(run("alone", 12))
        await asyncio.sleep(0)
        group.create_task(run("c", 1))  # would fit, but another run waits
        await asyncio.sleep(0.05)
        assert inside == {"a", "b"}
        go_on.set()
    assert {"alone"} in most
    assert all(len(names) == 1 for names in most if "alone" in names)


async def test_a_cancelled_wait_occupies_nothing() -> None:
    gate = PhaseGate(1)
    async with gate.inside(1):
        waiting = asyncio.create_task(gate.inside(1).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    async with asyncio.timeout(1), gate.inside(1):
        pass
