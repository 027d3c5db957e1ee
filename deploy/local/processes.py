"""Child processes that are watched while they run and never outlive their parent.

Each child runs in a session of its own (Ctrl-C in a terminal reaches only the parent, which then
ends its children in order), writes to a log file of its own, gets a clean environment, and counts
as started once its probe succeeds. However the parent ends, the children end: in reverse order with
SIGTERM, then SIGKILL; and if the parent is killed outright, by `process_reaper.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from deploy.local.errors import ProcessDied, StartTimeout

PROCESS_REAPER = Path(__file__).with_name("process_reaper.py")

POLL_S = 0.05
PROBE_TIMEOUT_S = 5.0
KILL_WAIT_S = 2.0
LAST_LINES = 20
_TAIL_BYTES = 16_384

INHERITED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "LANG", "LANGUAGE"),
        *("TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV", "CI", "NO_COLOR"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    }
)
"""The variables of the parent's environment that a child gets; see `clean_environment`."""
INHERITED_PREFIXES = ("LC_", "XDG_", "PYTHON", "LD_LIBRARY_", "DYLD_")

OnWait = Callable[[str, float], None]
OnLoss = Callable[[ProcessDied], None]
T = TypeVar("T")


def clean_environment() -> dict[str, str]:
    """The part of this process's environment that every child may have.

    Servers read variables that a user sets for other programs: livekit-server takes `LIVEKIT_PORT`
    for its own port, the SDK of a worker takes `TEMPORAL_API_KEY`. A child gets what any program
    needs (search path, home, language, temporary files, certificates, proxies, Python's own
    settings) and what its `ChildSpec.env` names, nothing else.
    """
    return {
        name: text
        for name, text in os.environ.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to run and how to probe that it is ready."""

    name: str
    argv: Sequence[str]
    ready: Probe
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Added to `clean_environment`. May hold secrets: kept out of the repr."""
    ready_within_s: float = 30.0
    stop_within_s: float = 5.0
    cwd: Path | None = None
    needed: bool = True
    """False: when the child ends by itself, `Supervisor.guard` goes on and calls `on_loss`."""


class ChildState(Enum):
    """The states of a child; `_LEGAL` has the transitions."""

    STARTING = "starting"
    READY = "ready"
    ENDING = "ending"
    ENDED = "ended"


_LEGAL: Mapping[ChildState, frozenset[ChildState]] = {
    ChildState.STARTING: frozenset({ChildState.READY, ChildState.ENDING, ChildState.ENDED}),
    ChildState.READY: frozenset({ChildState.ENDING, ChildState.ENDED}),
    ChildState.ENDING: frozenset({ChildState.ENDED}),
    ChildState.ENDED: frozenset(),
}


class Child:
    """One running child. Made by `Supervisor.start`."""

    def __init__(self, spec: ChildSpec, process: asyncio.subprocess.Process, log: Path) -> None:
        self.spec = spec
        self.process = process
        self.log = log
        self.state = ChildState.STARTING

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group and session."""
        return self.process.pid

    def move(self, state: ChildState) -> None:
        """Change the state.

        Raises:
            RuntimeError: the change is not a legal one.
        """
        if state not in _LEGAL[self.state]:
            raise RuntimeError(f"{self.spec.name}: {self.state.value} to {state.value} is illegal")
        self.state = state

    def last_lines(self, count: int = LAST_LINES) -> list[str]:
        """The end of the log. The log is a plain file, so this works however the child ended."""
        with self.log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-count:]

    def signal_group(self, sign: signal.Signals) -> None:
        """Signal the child and every process it started, if any of them is left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, sign)

    def send_signal(self, sign: signal.Signals) -> None:
        """Signal the child alone.

        Raises:
            ProcessLookupError: the child has ended.
        """
        os.kill(self.pid, sign)

    async def wait(self, within_s: float) -> int:
        """Wait until the child has ended; its exit status, negative for a signal.

        Raises:
            TimeoutError: the child still runs after `within_s`.
        """
        async with asyncio.timeout(within_s):
            return await self.process.wait()


Probe = Callable[[Child], Awaitable[bool]]
"""Whether a child is ready to work. Called until it returns True; a slow probe is cancelled."""


class Supervisor:
    """Starts children, notices when one dies, ends them all.

    Use as an async context manager. `logs` is the folder of their log files, created if missing.
    `on_loss` is called when a child that is not needed has failed after it was ready.
    """

    def __init__(
        self, logs: Path, on_wait: OnWait | None = None, on_loss: OnLoss | None = None
    ) -> None:
        self.logs = logs
        self.children: list[Child] = []
        self._on_wait = on_wait
        self._on_loss = on_loss
        self._watches: dict[Child, asyncio.Task[None]] = {}
        self._reaper: asyncio.subprocess.Process | None = None
        self._first_death: asyncio.Future[ProcessDied] | None = None
        self._kill_at_once = asyncio.Event()
        self._contexts = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._first_death = asyncio.get_running_loop().create_future()
        self._reaper = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(PROCESS_REAPER),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.end_all()
        finally:
            await self._contexts.aclose()

    def log_of(self, name: str) -> Path:
        """The log file of the child of this name."""
        return self.logs / f"{name.lower().replace(' ', '-')}.log"

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter a context that is left after every child has ended."""
        return await self._contexts.enter_async_context(context)

    async def start(self, spec: ChildSpec) -> Child:
        """Start a child and wait until its probe says it is ready.

        Raises:
            ProcessDied: it ended before it was ready.
            StartTimeout: it was not ready within `spec.ready_within_s`.
            OSError: the program could not be started.
        """
        log = self.log_of(spec.name)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                cwd=spec.cwd,
                env={**clean_environment(), **spec.env},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        child = Child(spec, process, log)
        self.children.append(child)
        await self._write_to_reaper(f"+{child.pid}")
        self._watches[child] = asyncio.create_task(self._watch(child), name=f"watch {spec.name}")
        await self._until_ready(child)
        child.move(ChildState.READY)
        return child

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work`; if a child dies meanwhile, cancel it and raise that death.

        Raises:
            ProcessDied: a needed child ended by itself.
        """
        assert self._first_death is not None, "the supervisor has not been entered"
        task = asyncio.create_task(work, name="guarded work")
        either: set[asyncio.Future[Any]] = {task, self._first_death}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Also when this call is cancelled: the work finishes before the children end.
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if self._first_death.done():
            if not task.cancelled():
                task.exception()  # the death is the cause of whatever the work raised
            raise self._first_death.result()
        return task.result()

    def kill_at_once(self) -> None:
        """End children by SIGKILL from now on, without waiting after SIGTERM."""
        self._kill_at_once.set()

    async def end(self, child: Child) -> None:
        """End one child and wait until it has ended."""
        if child.state is not ChildState.ENDED:
            if child.state is not ChildState.ENDING:
                child.move(ChildState.ENDING)
            await self._end_in_order(child)
        await self._watches[child]

    async def end_all(self) -> None:
        """End every child, the youngest first. A cancel kills the rest, and still ends all."""
        ending = asyncio.create_task(self._end_all(), name="end all children")
        cancelled = False
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                cancelled = True
                self.kill_at_once()
        ending.result()
        if cancelled:
            raise asyncio.CancelledError

    async def _end_all(self) -> None:
        for child in reversed(self.children):
            await self.end(child)
        if self._reaper is not None and self._reaper.stdin is not None:
            self._reaper.stdin.close()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await self._reaper.stdin.wait_closed()
            await asyncio.wait_for(self._reaper.wait(), KILL_WAIT_S)
        if self._first_death is not None:
            self._first_death.cancel()

    async def _end_in_order(self, child: Child) -> None:
        child.signal_group(signal.SIGTERM)
        watch = self._watches[child]
        kill_now = asyncio.create_task(
            self._kill_at_once.wait(), name=f"kill now {child.spec.name}"
        )
        try:
            await asyncio.wait(
                {watch, kill_now},
                timeout=child.spec.stop_within_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            kill_now.cancel()
        # Also after an exit in order: processes that the child started may still run.
        child.signal_group(signal.SIGKILL)

    async def _until_ready(self, child: Child) -> None:
        spec, started_at = child.spec, time.monotonic()
        while True:
            waited_s = time.monotonic() - started_at
            if child.state is ChildState.ENDED:
                assert child.process.returncode is not None
                raise ProcessDied(
                    spec.name, child.process.returncode, child.last_lines(), child.log
                )
            if await self._probe(child):
                return
            if waited_s > spec.ready_within_s:
                raise StartTimeout(spec.name, waited_s, child.last_lines(), child.log)
            if self._on_wait is not None:
                self._on_wait(spec.name, waited_s)
            await asyncio.sleep(POLL_S)

    async def _probe(self, child: Child) -> bool:
        try:
            return await asyncio.wait_for(child.spec.ready(child), PROBE_TIMEOUT_S)
        except TimeoutError:
            return False

    async def _watch(self, child: Child) -> None:
        status = await child.process.wait()
        before = child.state
        child.move(ChildState.ENDED)
        await self._write_to_reaper(f"-{child.pid}")
        if before is ChildState.ENDING:
            return
        child.signal_group(signal.SIGKILL)
        death = ProcessDied(child.spec.name, status, child.last_lines(), child.log)
        assert self._first_death is not None
        if child.spec.needed and not self._first_death.done():
            self._first_death.set_result(death)
        # `start` raises for a child that never was ready; a child may end with status 0.
        lost = not child.spec.needed and before is ChildState.READY and status != 0
        if lost and self._on_loss is not None:
            self._on_loss(death)

    async def _write_to_reaper(self, line: str) -> None:
        assert self._reaper is not None
        assert self._reaper.stdin is not None
        # If the reaper was killed, only the last resort is lost.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._reaper.stdin.write(f"{line}\n".encode())
            await self._reaper.stdin.drain()


async def accepts_connections(host: str, port: int) -> bool:
    """Whether a process listens on this TCP port."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
