"""No process starts while a takeover is measured, and no waiter waits forever."""

from __future__ import annotations

import asyncio

import pytest

from chaos import start_lock as start_lock_module
from chaos.start_lock import StartLock
from tests.support.waiting import until


class Holders:
    """Starts and measurements that hold the lock until the test ends them."""

    def __init__(self) -> None:
        self.start_lock = StartLock()
        self.inside: set[str] = set()
        self.ended: dict[str, asyncio.Event] = {}

    async def start(self, name: str, *, urgent: bool = False) -> None:
        async with self.start_lock.start(urgent=urgent):
            await self._hold(name)

    async def no_starts(self, name: str) -> None:
        async with self.start_lock.no_starts():
            await self._hold(name)

    async def _hold(self, name: str) -> None:
        self.inside.add(name)
        await self.ended.setdefault(name, asyncio.Event()).wait()
        self.inside.discard(name)

    def end(self, name: str) -> None:
        self.ended.setdefault(name, asyncio.Event()).set()


async def let_tasks_run() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_starts_exclude_each_other_and_measurements() -> None:
    holders = Holders()
    async with asyncio.TaskGroup() as group:
        group.create_task(holders.no_starts("m1"))
        group.create_task(holders.no_starts("m2"))
        await until(lambda: holders.inside == {"m1", "m2"})
        group.create_task(holders.start("s1"))
        group.create_task(holders.start("s2"))
        await let_tasks_run()
        assert holders.inside == {"m1", "m2"}
        holders.end("m1")
        holders.end("m2")
        await until(lambda: holders.inside == {"s1"})
        holders.end("s1")
        await until(lambda: holders.inside == {"s2"})
        holders.end("s2")


async def test_a_measurement_defers_to_starts_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start_lock_module, "MAX_DEFERRAL_S", 0.1)
    holders = Holders()
    async with asyncio.TaskGroup() as group:
        for name in ("s1", "s2", "s3"):
            group.create_task(holders.start(name))
        await until(lambda: holders.inside == {"s1"})
        group.create_task(holders.no_starts("m"))
        await let_tasks_run()
        holders.end("s1")
        await until(lambda: holders.inside == {"s2"})
        await asyncio.sleep(0.2)
        holders.end("s2")
        await until(lambda: holders.inside == {"m"})
        holders.end("m")
        await until(lambda: holders.inside == {"s3"})
        holders.end("s3")


async def test_a_cancelled_start_does_not_block_others() -> None:
    holders = Holders()
    async with asyncio.TaskGroup() as group:
        group.create_task(holders.no_starts("m"))
        await until(lambda: holders.inside == {"m"})
        waiting = group.create_task(holders.start("s1"))
        await let_tasks_run()
        waiting.cancel()
        group.create_task(holders.no_starts("m2"))
        await until(lambda: holders.inside == {"m", "m2"})
        holders.end("m")
        holders.end("m2")
        group.create_task(holders.start("s2"))
        await until(lambda: holders.inside == {"s2"})
        holders.end("s2")


async def test_an_urgent_start_goes_before_other_starts() -> None:
    holders = Holders()
    async with asyncio.TaskGroup() as group:
        group.create_task(holders.start("s1"))
        await until(lambda: holders.inside == {"s1"})
        group.create_task(holders.start("s2"))
        await let_tasks_run()
        group.create_task(holders.start("urgent", urgent=True))
        await let_tasks_run()
        holders.end("s1")
        await until(lambda: holders.inside == {"urgent"})
        holders.end("urgent")
        await until(lambda: holders.inside == {"s2"})
        holders.end("s2")
