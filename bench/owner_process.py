"""A worker of role ``streams`` that also watches itself; for the load measurements.

Prints one JSON object a line: ``{"ready": ...}`` first, then, whenever a line comes in on standard
input, what it has seen since the last one.
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

from avatar_sessions.contract.messages import UtteranceReport
from liveavatar_lite import ErrorReported
from owner.registry import SessionRegistry
from owner.session import OwnedSession
from owner.utterance import Utterance
from workers.process import connect, running_worker_set
from workers.settings import WorkerSettings
from workers.wiring import Role, liveavatar_for, worker_set_for

LAG_EVERY_S: Final = 0.01
LOOK_EVERY_S: Final = 0.5
STEADY_LEAD_S: Final = 1.5
"""A lead below this is one whose producer has not brought enough yet: no error of the pacing."""


class Watch:
    """What the process sees of itself."""

    def __init__(self) -> None:
        self.lags_ms: list[float] = []
        self.leads_s: list[float] = []
        self.starvations = 0

    def take(self) -> dict[str, Any]:
        """All of it since the last time."""
        seen: dict[str, Any] = {
            "cpu_s": time.process_time(),
            "rss_kib": _rss_kib(),
            "lags_ms": self.lags_ms,
            "leads_s": self.leads_s,
            "starvations": self.starvations,
        }
        self.__init__()  # type: ignore[misc]
        return seen

    async def lag(self) -> None:
        """How much later than asked for the event loop comes back."""
        while True:
            began_s = time.perf_counter()
            await asyncio.sleep(LAG_EVERY_S)
            self.lags_ms.append((time.perf_counter() - began_s - LAG_EVERY_S) * 1000)

    async def sessions(self, owned: SessionRegistry) -> None:
        """Observe each session as a speaker's connection would."""
        seen: set[OwnedSession] = set()
        while True:
            for session in set(owned.all()) - seen:
                session.add_observer(_Observer(self))
                seen.add(session)
            await asyncio.sleep(LOOK_EVERY_S)


class _Observer:
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_progress(self, utterance: Utterance) -> None:
        lead_s = utterance.unplayed_s(time.monotonic())
        if lead_s > STEADY_LEAD_S:
            self._watch.leads_s.append(lead_s)

    def on_error(self, error: ErrorReported) -> None:
        self._watch.starvations += error.type == "video_starvation"

    def on_pose_changed(self, previous: str | None, pose: str) -> None: ...
    def on_playback_started(self, utterance: Utterance) -> None: ...
    def on_utterance_over(self, report: UtteranceReport) -> None: ...
    def on_buffer_cleared(self, interrupt_id: str | None) -> None: ...
    def on_ready_changed(self, ready: bool) -> None: ...
    def on_released(self, *, over: bool) -> None: ...


def _rss_kib() -> int:
    with open("/proc/self/status") as status:  # noqa: PTH123 - read at once, no loop waits
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1])


async def main(role: Role) -> None:
    """Work until standard input ends."""
    settings = WorkerSettings()
    client = await connect()
    watch = Watch()
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    async with liveavatar_for(settings) as liveavatar:
        worker_set = worker_set_for(role, client, settings, liveavatar)
        async with running_worker_set(worker_set, settings.drain_timeout_s):
            watching = [
                asyncio.create_task(watch.lag(), name="lag"),
                asyncio.create_task(watch.sessions(worker_set.registry), name="sessions"),
            ]
            tell({"ready": True})
            while line := await lines.get():
                if "collect" in line:
                    gc.collect()  # before memory is looked at
                tell(watch.take())
            for task in watching:
                task.cancel()


def tell(message: dict[str, Any]) -> None:
    """One line for whoever started us."""
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(Role(sys.argv[1])))
