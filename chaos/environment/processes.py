"""Worker processes that may die: starts, signals and inspects them. A death is not an error."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.errors import ConditionTimeout
from chaos.start_lock import StartLock
from deploy.local.processes import Child, Supervisor
from deploy.local.temporal import TemporalServer
from deploy.local.worker import start_worker
from workers.settings import WorkerSettings
from workers.wiring import Role

POLL_S: Final = 0.02
ANSWERS_WITHIN_S: Final = 5.0
_TASKS: Final = re.compile(rb": tasks (\d+):")


@dataclass(frozen=True, slots=True)
class ResourceSnapshot:
    """Resources that a process has open."""

    files: int
    threads: int
    tasks: int | None
    """asyncio tasks, as the process itself reports; None: no report."""


class WorkerProcess:
    """One ``python -m workers``."""

    def __init__(self, role: Role, child: Child) -> None:
        self.role = role
        self.child = child
        self.signalled_at_s = 0.0
        """When the last signal was sent, by the monotonic clock."""

    def __repr__(self) -> str:
        return f"{self.child.spec.name} (pid {self.child.pid})"

    @property
    def log(self) -> Path:
        """The path of its log."""
        return self.child.log

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended; it may be stopped by SIGSTOP."""
        return self.child.process.returncode is None

    @property
    def status(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        return self.child.process.returncode

    def send(self, sign: signal.Signals) -> float:
        """Signal this process, not its group; returns the wall-clock time."""
        self.signalled_at_s = time.monotonic()
        at_s = time.time()
        os.kill(self.child.pid, sign)
        return at_s

    async def wait_for_exit(self, within_s: float) -> float:
        """Wait until it has ended; returns the seconds since the last signal.

        Raises:
            ConditionTimeout: it still runs.
        """
        try:
            async with asyncio.timeout(within_s):
                await self.child.process.wait()
        except TimeoutError:
            raise ConditionTimeout(f"{self!r} still runs {within_s:g} s after its signal") from None
        return time.monotonic() - self.signalled_at_s

    async def resources(self) -> ResourceSnapshot:
        """Count its open files and threads in ``/proc``, and ask it for its tasks."""
        tasks = await self._tasks()
        proc = Path("/proc") / str(self.child.pid)
        return ResourceSnapshot(
            files=len(list((proc / "fd").iterdir())),
            threads=len(list((proc / "task").iterdir())),
            tasks=tasks,
        )

    async def _tasks(self) -> int | None:
        """Have it write its tasks to its log (SIGUSR1), and read their number."""
        log_size = self.log.stat().st_size
        os.kill(self.child.pid, signal.SIGUSR1)
        give_up_s = time.monotonic() + ANSWERS_WITHIN_S
        while time.monotonic() < give_up_s:
            with self.log.open("rb") as log:
                log.seek(log_size)
                if found := _TASKS.search(log.read()):
                    return int(found[1])
            await asyncio.sleep(POLL_S)
        return None

    def fill_disk(self) -> None:
        """Keep its log from growing: every further write fails, as on a full disk."""
        self._limit_log(self.log.stat().st_size)

    def free_disk(self) -> None:
        """Let its log grow again."""
        self._limit_log(resource.RLIM_INFINITY)

    def _limit_log(self, size: int) -> None:
        _, most = resource.prlimit(self.child.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.child.pid, resource.RLIMIT_FSIZE, (size, most))


async def start_worker_process(
    supervisor: Supervisor,
    start_lock: StartLock,
    name: str,
    role: Role,
    settings: WorkerSettings,
    temporal: TemporalServer,
    variables: Mapping[str, str],
    *,
    urgent: bool = False,
) -> WorkerProcess:
    """Start a worker as soon as the start lock admits it, and wait until it is ready.

    Raises:
        LocalError: it did not start, or ended before it was ready.
    """
    async with start_lock.start(urgent=urgent):
        child = await start_worker(
            supervisor,
            role,
            settings,
            temporal,
            name=name,
            environment=variables,
            needed=False,
        )
    return WorkerProcess(role, child)
