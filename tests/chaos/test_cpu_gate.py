"""Runs wait for a machine with time left, but not for ever."""

from __future__ import annotations

import asyncio
import time

import pytest

from chaos import cpu_gate as air_module
from chaos.cpu_gate import CpuGate


async def test_a_machine_with_time_left_lets_everybody_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(air_module, "LOOK_S", 0.01)
    monkeypatch.setattr(air_module, "IDLE_AT_LEAST", 0.0)
    air = CpuGate()
    async with asyncio.timeout(10):
        await asyncio.gather(*(air.taken() for _ in range(5)))


async def test_a_machine_that_is_always_busy_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(air_module, "LOOK_S", 0.01)
    monkeypatch.setattr(air_module, "IDLE_AT_LEAST", 1.1)
    monkeypatch.setattr(air_module, "WAITS_AT_MOST_S", 0.2)
    began_s = time.monotonic()
    async with asyncio.timeout(10):
        await CpuGate().taken()
    assert time.monotonic() - began_s >= 0.2
