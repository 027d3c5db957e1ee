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
    """Runs wait in line; each poll admits at most one.

    Args:
        min_idle: the share of all cores' time that must be idle.
        max_wait_s: the longest wait.
    """

    def __init__(self, min_idle: float = MIN_IDLE, max_wait_s: float = MAX_WAIT_S) -> None:
        self._line = asyncio.Lock()
        self._min_idle = min_idle
        self._max_wait_s = max_wait_s

    async def wait_for_idle(self) -> None:
        """Wait until a run may begin."""
        async with self._line:
            give_up_s = time.monotonic() + self._max_wait_s
            before = _times()
            while True:
                await asyncio.sleep(POLL_S)
                now = _times()
                if _idle(before, now) >= self._min_idle or time.monotonic() > give_up_s:
                    return
                before = now


def _times() -> list[int]:
    """Ticks of all cores: user, nice, system, idle, iowait, …"""
    return [int(word) for word in _STAT.read_text().partition("\n")[0].split()[1:]]


def _idle(before: list[int], now: list[int]) -> float:
    spent = [late - early for early, late in zip(before, now, strict=True)]
    total = sum(spent[:8])  # guest time is also counted as user time
    return (spent[3] + spent[4]) / total if total > 0 else 1.0
