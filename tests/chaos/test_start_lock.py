"""No process starts while a takeover is measured, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from chaos import start_lock as start_lock_module
from chaos.start_lock import StartLock
from tests.support.waiting import until


class Scene:
    """Starts and windows that last until they are told to end."""

    def __init__(self) -> None:
        self.start_lock = StartLock()
        self.inside: set[str] = set()
        self.over: dict[str, asyncio.Event] = {}

    async def start(self, name: str, *, urgent: bool = False) -> None:
        async with self.start_lock.start(urgent=urgent):
            await self._stay(name)

    async def no_starts(self, name: str) -> None:
        async with self.start_lock.no_starts():
            await self._stay(name)

    async def _stay(self, name: str) -> None:
        self.inside.add(name)
        await self.over.setdefault(name, asyncio.Event()).wait()
        self.inside.discard(name)

    def end(self, name: str) -> None:
        self.over.setdefault(name, asyncio.Event()).set()


async def a_moment() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_starts_wait_for_each_other_and_for_windows() -> None:
    scene = Scene()
    async with asyncio.TaskGroup() as group:
        group.create_task(scene.no_starts("w1"))
        group.create_task(scene.no_starts("w2"))
        await until(lambda: scene.inside == {"w1", "w2"})
        group.create_task(scene.start("s1"))
        group.create_task(scene.start("s2"))
        await a_moment()
        assert scene.inside == {"w1", "w2"}
        scene.end("w1")
        scene.end("w2")
        await until(lambda: scene.inside == {"s1"})
        scene.end("s1")
        await until(lambda: scene.inside == {"s2"})
        scene.end("s2")


async def test_a_window_lets_starts_go_first_until_its_patience_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start_lock_module, "MAX_DEFERRAL_S", 0.1)
    scene = Scene()
    async with asyncio.TaskGroup() as group:
        for name in ("s1", "s2", "s3"):
            group.create_task(scene.start(name))
        await until(lambda: scene.inside == {"s1"})
        group.create_task(scene.no_starts("w"))
        await a_moment()
        scene.end("s1")
        await until(lambda: scene.inside == {"s2"})
        await asyncio.sleep(0.2)
        scene.end("s2")
        await until(lambda: scene.inside == {"w"})
        scene.end("w")
        await until(lambda: scene.inside == {"s3"})
        scene.end("s3")


async def test_who_gives_up_waiting_shuts_nobody_out() -> None:
    scene = Scene()
    async with asyncio.TaskGroup() as group:
        group.create_task(scene.no_starts("w"))
        await until(lambda: scene.inside == {"w"})
        waiting = group.create_task(scene.start("s1"))
        await a_moment()
        waiting.cancel()
        group.create_task(scene.no_starts("w2"))
        await until(lambda: scene.inside == {"w", "w2"})
        scene.end("w")
        scene.end("w2")
        group.create_task(scene.start("s2"))
        await until(lambda: scene.inside == {"s2"})
        scene.end("s2")


async def test_a_start_that_a_fault_waits_for_goes_before_the_others() -> None:
    scene = Scene()
    async with asyncio.TaskGroup() as group:
        group.create_task(scene.start("s1"))
        await until(lambda: scene.inside == {"s1"})
        group.create_task(scene.start("s2"))
        await a_moment()
        group.create_task(scene.start("urgent", urgent=True))
        await a_moment()
        scene.end("s1")
        await until(lambda: scene.inside == {"urgent"})
        scene.end("urgent")
        await until(lambda: scene.inside == {"s2"})
        scene.end("s2")
