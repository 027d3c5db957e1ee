"""Admits a run only while at least 20 % of the CPU is idle; otherwise contention is measured.

Reads the whole machine's CPU times, so other programs' load counts too.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

MIN_IDLE: Final = 0.2
"""The share of all cores' time that must be idle before a run begins."""
POLL_S: Final = 0.5
MAX_WAIT_S: Final = 2.0
"""Then the run begins anyway, so that a machine that is always busy still gets through."""
_STAT: Final = Path("/proc/stat")


class CpuGate:
    """Runs wait in line; each poll admits at most one."""

    def __init__(self) -> None:
        self._line = asyncio.Lock()

    async def wait_for_idle(self) -> None:
        """Wait until a run may begin."""
        async with self._line:
            give_up_s = time.monotonic() + MAX_WAIT_S
            before = _times()
            while True:
                await asyncio.sleep(POLL_S)
                now = _times()
                if _idle(before, now) >= MIN_IDLE or time.monotonic() > give_up_s:
                    return
                before = now


def _times() -> list[int]:
    """Ticks of all cores: user, nice, system, idle, iowait, …"""
    return [int(word) for word in _STAT.read_text().partition("\n")[0].split()[1:]]


def _idle(before: list[int], now: list[int]) -> float:
    spent = [late - early for early, late in zip(before, now, strict=True)]
    total = sum(spent[:8])  # guest time is also counted as user time
    return (spent[3] + spent[4]) / total if total > 0 else 1.0
