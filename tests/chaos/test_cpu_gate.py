"""Runs wait for idle CPU, but not forever."""

from __future__ import annotations

import asyncio
import time

import pytest

from chaos import cpu_gate as cpu_gate_module
from chaos.cpu_gate import CpuGate


async def test_runs_begin_while_cpu_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_gate_module, "POLL_S", 0.01)
    monkeypatch.setattr(cpu_gate_module, "MIN_IDLE", 0.0)
    cpu_gate = CpuGate()
    async with asyncio.timeout(10):
        await asyncio.gather(*(cpu_gate.wait_for_idle() for _ in range(5)))


async def test_a_run_begins_on_a_machine_that_stays_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_gate_module, "POLL_S", 0.01)
    monkeypatch.setattr(cpu_gate_module, "MIN_IDLE", 1.1)
    monkeypatch.setattr(cpu_gate_module, "MAX_WAIT_S", 0.2)
    began_s = time.monotonic()
    async with asyncio.timeout(10):
        await CpuGate().wait_for_idle()
    assert time.monotonic() - began_s >= 0.2
