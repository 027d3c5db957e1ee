"""Which runs there are, in which order, and how many at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from chaos.fault import BOTH, Fault, Load
from chaos.run import Run
from chaos.schedule import CAPACITY, Gate, in_order, jobs_of
from chaos.world import Layout
from tests.waiting import until


async def nothing(run: Run) -> None: ...


FAULT = Fault(name="some", what="", inject=nothing, bound_ms=None, layouts=BOTH)


def test_a_row_has_as_many_runs_as_asked_for() -> None:
    rows = jobs_of([FAULT], list(Layout), 3)
    assert {row: len(jobs) for row, jobs in rows.items()} == {
        ("some", Layout.ALL): 3,
        ("some", Layout.SPLIT): 3,
    }


def test_a_row_with_a_share_has_fewer_and_never_none() -> None:
    dear = replace(FAULT, share=0.25, layouts=(Layout.ALL,))
    assert len(jobs_of([dear], list(Layout), 20)["some", Layout.ALL]) == 5
    assert len(jobs_of([dear], list(Layout), 1)["some", Layout.ALL]) == 1


def test_a_layout_that_is_not_asked_for_has_no_row() -> None:
    assert list(jobs_of([FAULT], [Layout.SPLIT], 1)) == [("some", Layout.SPLIT)]


def test_what_cannot_be_done_here_has_a_row_without_runs() -> None:
    rows = jobs_of([replace(FAULT, unavailable="no such clock")], [Layout.ALL], 5)
    assert rows == {("some", Layout.ALL): []}


def test_what_needs_the_machine_goes_first_and_long_waits_before_short_ones() -> None:
    faults = [
        replace(FAULT, name="short wait", load=Load.WAITS, takes_s=5),
        replace(FAULT, name="long wait", load=Load.WAITS, takes_s=100),
        replace(FAULT, name="works", load=Load.WORKS),
        replace(FAULT, name="alone", load=Load.ALONE),
    ]
    jobs = [job for row in jobs_of(faults, [Layout.ALL], 1).values() for job in row]
    names = [job.fault.name for job in in_order(jobs)]
    assert names == ["alone", "works", "long wait", "short wait"]


async def test_a_run_that_needs_the_machine_is_alone() -> None:
    gate, inside, most = Gate(), set[str](), list[set[str]]()
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
        group.create_task(run("alone", CAPACITY))
        await asyncio.sleep(0)
        group.create_task(run("c", 1))  # would fit, but somebody waits
        await asyncio.sleep(0.05)
        assert inside == {"a", "b"}
        go_on.set()
    assert {"alone"} in most
    assert all(len(names) == 1 for names in most if "alone" in names)


async def test_who_gives_up_waiting_takes_no_room() -> None:
    gate = Gate(1)
    async with gate.inside(1):
        waiting = asyncio.create_task(gate.inside(1).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    async with asyncio.timeout(1), gate.inside(1):
        pass
