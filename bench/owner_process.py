"""A worker that owns sessions and measures itself; for the load measurements.

Prints one JSON object a line: ``{"ready": ...}`` first, then, for each line on standard input, its
measurements since the previous one.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import uvloop

from avatar_sessions.contract.reports import UtteranceReport
from liveavatar_lite import ErrorReported
from owner.registry import SessionRegistry
from owner.session import OwnedSession
from owner.utterance_chunks import Utterance
from workers.process import connect, running_worker_set
from workers.settings import WorkerSettings
from workers.wiring import Role, liveavatar_for, worker_set_for

LAG_EVERY_S: Final = 0.01
DISCOVER_EVERY_S: Final = 0.5
STEADY_LEAD_S: Final = 1.5
"""Below this lead the producer has not delivered enough yet: not an error of the pacer."""


class SelfMeasurement:
    """CPU, memory, event loop lag, leads and starvations of this process."""

    def __init__(self) -> None:
        self.lags_ms: list[float] = []
        self.leads_s: list[float] = []
        self.starvations = 0

    def collect(self) -> dict[str, Any]:
        """The measurements since the last call, which also resets them."""
        figures: dict[str, Any] = {
            "cpu_s": time.process_time(),
            "rss_kib": _rss_kib(),
            "lags_ms": self.lags_ms,
            "leads_s": self.leads_s,
            "starvations": self.starvations,
        }
        self.__init__()  # type: ignore[misc]
        return figures

    async def lag(self) -> None:
        """Measure how late the event loop wakes a sleeping task."""
        while True:
            began_s = time.perf_counter()
            await asyncio.sleep(LAG_EVERY_S)
            self.lags_ms.append((time.perf_counter() - began_s - LAG_EVERY_S) * 1000)

    async def sessions(self, owned: SessionRegistry) -> None:
        """Observe each owned session, as a speaker's connection does."""
        seen: set[OwnedSession] = set()
        while True:
            for session in set(owned.all()) - seen:
                session.add_observer(_Observer(self))
                seen.add(session)
            await asyncio.sleep(DISCOVER_EVERY_S)


class _Observer:
    def __init__(self, measurement: SelfMeasurement) -> None:
        self._measurement = measurement

    def on_progress(self, utterance: Utterance) -> None:
        lead_s = utterance.unplayed_s(time.monotonic())
        if lead_s > STEADY_LEAD_S:
            self._measurement.leads_s.append(lead_s)

    def on_error(self, error: ErrorReported) -> None:
        self._measurement.starvations += error.type == "video_starvation"

    def on_pose_changed(self, previous: str | None, pose: str) -> None: ...
    def on_playback_started(self, utterance: Utterance) -> None: ...
    def on_utterance_over(self, report: UtteranceReport) -> None: ...
    def on_buffer_cleared(self, interrupt_id: str | None) -> None: ...
    def on_ready_changed(self, ready: bool) -> None: ...
    def on_released(self, *, over: bool) -> None: ...


def _rss_kib() -> int:
    with open("/proc/self/status") as status:  # noqa: PTH123 - a short read from memory
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1])


async def main(role: Role) -> None:
    """Run the worker until standard input ends."""
    settings = WorkerSettings()
    client = await connect()
    measurement = SelfMeasurement()
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    async with liveavatar_for(settings) as liveavatar:
        worker_set = worker_set_for(role, client, settings, liveavatar)
        async with running_worker_set(worker_set, settings.drain_timeout_s):
            watching = [
                asyncio.create_task(measurement.lag(), name="lag"),
                asyncio.create_task(measurement.sessions(worker_set.registry), name="sessions"),
            ]
            send({"ready": True})
            while line := await lines.get():
                if "collect" in line:
                    gc.collect()  # so that garbage does not count as memory
                send(measurement.collect())
            for task in watching:
                task.cancel()


def send(message: dict[str, Any]) -> None:
    """Print one line for the parent process."""
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(Role(sys.argv[1])))
