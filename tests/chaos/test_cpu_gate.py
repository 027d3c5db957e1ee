"""Runs wait for a machine with time left, but not for ever."""

from __future__ import annotations

import asyncio
import time

import pytest

from chaos import cpu_gate as cpu_gate_module
from chaos.cpu_gate import CpuGate


async def test_a_machine_with_time_left_lets_everybody_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_gate_module, "POLL_S", 0.01)
    monkeypatch.setattr(cpu_gate_module, "MIN_IDLE", 0.0)
    cpu_gate = CpuGate()
    async with asyncio.timeout(10):
        await asyncio.gather(*(cpu_gate.wait_for_idle() for _ in range(5)))


async def test_a_machine_that_is_always_busy_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_gate_module, "POLL_S", 0.01)
    monkeypatch.setattr(cpu_gate_module, "MIN_IDLE", 1.1)
    monkeypatch.setattr(cpu_gate_module, "MAX_WAIT_S", 0.2)
    began_s = time.monotonic()
    async with asyncio.timeout(10):
        await CpuGate().wait_for_idle()
    assert time.monotonic() - began_s >= 0.2
