"""Children are watched while they run, get a clean environment, and never outlive their parent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.errors import ProcessDied, StartTimeout
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.processes import Child, ChildSpec, ChildState, Supervisor, accepts_connections
from deploy.local.settings import ROOT

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
CRASHER = "import sys; print('one'); print('cannot open the thing'); sys.exit(3)"
GRANDPARENT = (
    "import subprocess, sys; "
    f'child = subprocess.Popen([sys.executable, "-c", "{STUBBORN}"]); '
    "print(child.pid, flush=True); child.wait()"
)

GONE_WITHIN_S = 15.0


def spec(name: str, program: str, stop_within_s: float = 5.0) -> ChildSpec:
    """A child whose probe succeeds immediately."""

    async def ready(_: Child) -> bool:
        return True

    argv = [sys.executable, "-c", program]
    return ChildSpec(name=name, argv=argv, ready=ready, stop_within_s=stop_within_s)


async def never(_: Child) -> bool:
    return False


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        if sys.platform == "linux":
            return False
        return subprocess.run(["kill", "-0", str(pid)], check=False).returncode == 0
    return status != "Z"


async def until(condition: Callable[[], bool], within_s: float = GONE_WITHIN_S) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


async def first_line(child: Child) -> str:
    await until(lambda: bool(child.last_lines()))
    return child.last_lines()[0]


async def test_a_child_is_ready_when_its_probe_succeeds(tmp_path: Path) -> None:
    port = free_port()
    server = (
        f"import socket, time; s = socket.create_server(('{LOOPBACK}', {port})); time.sleep(60)"
    )
    waits: list[str] = []

    async with Supervisor(tmp_path, on_wait=lambda name, _: waits.append(name)) as supervisor:
        child = await supervisor.start(
            ChildSpec(
                name="server",
                argv=[sys.executable, "-c", server],
                ready=lambda _: accepts_connections(LOOPBACK, port),
            )
        )

        assert child.state is ChildState.READY
        assert await accepts_connections(LOOPBACK, port)
    assert waits
    assert set(waits) == {"server"}
    assert not alive(child.pid)


async def test_the_error_of_a_child_that_dies_too_early_has_its_last_lines(
    tmp_path: Path,
) -> None:
    crasher = ChildSpec(name="crasher", argv=[sys.executable, "-c", CRASHER], ready=never)

    async with Supervisor(tmp_path) as supervisor:
        with pytest.raises(ProcessDied) as caught:
            await supervisor.start(crasher)

    assert caught.value.detail == ("one", "cannot open the thing")
    assert "crasher ended by itself (exit status 3)" in str(caught.value)
    assert str(tmp_path / "crasher.log") in str(caught.value)


async def test_waiting_for_a_child_that_never_gets_ready_is_bounded(tmp_path: Path) -> None:
    slow = ChildSpec(
        name="slow", argv=[sys.executable, "-c", SLEEPER], ready=never, ready_within_s=0.3
    )

    async with Supervisor(tmp_path) as supervisor:
        with pytest.raises(StartTimeout, match="slow was not ready after"):
            await supervisor.start(slow)
    assert not alive(supervisor.children[0].pid)


async def test_a_childs_death_cancels_the_guarded_work_and_is_raised_in_its_place(
    tmp_path: Path,
) -> None:
    cleaned_up = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned_up.set()

    async with Supervisor(tmp_path) as supervisor:
        child = await supervisor.start(spec("victim", SLEEPER))
        await first_line(child)
        guarded = asyncio.create_task(supervisor.guard(work()))
        await asyncio.sleep(0)
        child.signal_group(signal.SIGKILL)

        with pytest.raises(ProcessDied, match=r"victim ended by itself \(signal 9\)"):
            await guarded

    assert cleaned_up.is_set()


async def test_a_child_that_is_not_needed_may_fail_and_is_reported(tmp_path: Path) -> None:
    losses: list[ProcessDied] = []

    async with Supervisor(tmp_path, on_loss=losses.append) as supervisor:
        await supervisor.start(spec("server", SLEEPER))
        guest = await supervisor.start(replace(spec("guest", SLEEPER), needed=False))

        async def work() -> str:
            os.kill(guest.pid, signal.SIGKILL)
            await until(lambda: bool(losses))
            return "done"

        assert await supervisor.guard(work()) == "done"

    (loss,) = losses
    assert (loss.name, loss.status) == ("guest", -signal.SIGKILL)


async def test_a_child_that_is_not_needed_may_end_with_status_0(tmp_path: Path) -> None:
    losses: list[ProcessDied] = []

    async with Supervisor(tmp_path, on_loss=losses.append) as supervisor:
        guest = await supervisor.start(replace(spec("guest", "print('done')"), needed=False))

        await until(lambda: guest.state is ChildState.ENDED)

    assert losses == []


async def test_start_raises_for_a_child_that_is_not_needed_and_does_not_start(
    tmp_path: Path,
) -> None:
    losses: list[ProcessDied] = []

    async with Supervisor(tmp_path, on_loss=losses.append) as supervisor:
        crasher = replace(spec("guest", CRASHER), needed=False, ready=never)
        with pytest.raises(ProcessDied, match="guest ended by itself"):
            await supervisor.start(crasher)

    assert losses == []


async def test_guarded_work_returns_its_result_when_every_child_runs(tmp_path: Path) -> None:
    async def work() -> int:
        return 42

    async with Supervisor(tmp_path) as supervisor:
        await supervisor.start(spec("sleeper", SLEEPER))

        assert await supervisor.guard(work()) == 42


async def test_children_end_in_reverse_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    program = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        f"    pathlib.Path({str(order)!r}).open('a').write(sys.argv[1])\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )

    async def ready(_: Child) -> bool:
        return True

    async with Supervisor(tmp_path / "logs") as supervisor:
        for name in "abc":
            argv = [sys.executable, "-c", program, name]
            await first_line(await supervisor.start(ChildSpec(name=name, argv=argv, ready=ready)))

    assert order.read_text() == "cba"


async def test_a_child_that_ignores_sigterm_is_killed_after_its_time_limit(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        child = await supervisor.start(spec("stubborn", STUBBORN, stop_within_s=0.3))
        await first_line(child)
        ends_at = time.monotonic()

    assert time.monotonic() - ends_at < 5
    assert child.process.returncode == -signal.SIGKILL


async def test_processes_that_a_child_started_end_with_it(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        child = await supervisor.start(spec("grandparent", GRANDPARENT))
        grandchild = int(await first_line(child))
        assert alive(grandchild)

    await until(lambda: not alive(grandchild))


async def test_a_second_cancel_while_ending_kills_every_child(tmp_path: Path) -> None:
    """After a second Ctrl-C a server was left running and held its port."""
    children: list[Child] = []

    async def run() -> None:
        async with Supervisor(tmp_path) as supervisor:
            for name in ("one", "two"):
                child = await supervisor.start(spec(name, STUBBORN, stop_within_s=30.0))
                await first_line(child)
                children.append(child)

    task = asyncio.create_task(run())
    await until(lambda: len(children) == 2)
    await until(lambda: children[1].state is ChildState.ENDING)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert [child.process.returncode for child in children] == [-9, -9]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
async def test_children_are_gone_when_their_parent_is_killed_outright(
    tmp_path: Path, sign: signal.Signals
) -> None:
    """SIGTERM too: a parent without a handler for it cannot end its children either."""
    program = (
        "import asyncio, pathlib, sys\n"
        "from deploy.local.processes import ChildSpec, Supervisor\n"
        "async def ready(_): return True\n"
        "async def main():\n"
        f"    async with Supervisor(pathlib.Path({str(tmp_path)!r})) as supervisor:\n"
        f"        argv = [sys.executable, '-c', {STUBBORN!r}]\n"
        "        child = await supervisor.start(ChildSpec(name='s', argv=argv, ready=ready))\n"
        "        print(child.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 15))
    assert alive(pid)

    os.kill(parent.pid, sign)
    await asyncio.wait_for(parent.wait(), 10)

    await until(lambda: not alive(pid))


async def test_a_secret_in_a_childs_environment_is_not_in_its_specs_repr() -> None:
    child = ChildSpec(name="x", argv=["x"], ready=never, env={"SECRET": "fake-but-secret"})

    assert "fake-but-secret" not in repr(child)


async def test_an_illegal_change_of_state_names_both_states(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        child = await supervisor.start(spec("sleeper", SLEEPER))

        with pytest.raises(RuntimeError, match="ready to starting is illegal"):
            child.move(ChildState.STARTING)


async def test_a_child_does_not_inherit_variables_meant_for_other_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """livekit-server reads LIVEKIT_PORT: exported for `make demo`, it broke `make test`."""
    for name in ("LIVEKIT_PORT", "TEMPORAL_API_KEY", "AVATAR_SESSIONS_MAX_SESSIONS"):
        monkeypatch.setenv(name, "garbage")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = f"import json, os; print(json.dumps(dict(os.environ)), flush=True); {SLEEPER}"

    async with Supervisor(tmp_path) as supervisor:
        child = await supervisor.start(replace(spec("x", program), env={"TEMPORAL_ADDRESS": "a:1"}))
        environment = json.loads(await first_line(child))

    assert "garbage" not in environment.values()
    assert environment["TEMPORAL_ADDRESS"] == "a:1"
    assert environment["XDG_CACHE_HOME"] == str(tmp_path)
    assert environment["PATH"] == os.environ["PATH"]


async def test_a_context_that_the_supervisor_entered_is_left_after_its_children(
    tmp_path: Path,
) -> None:
    left_while_running: list[bool] = []

    @contextlib.asynccontextmanager
    async def context() -> AsyncIterator[None]:
        yield
        left_while_running.append(alive(child.pid))

    async with Supervisor(tmp_path) as supervisor:
        await supervisor.enter(context())
        child = await supervisor.start(spec("sleeper", SLEEPER))

    assert left_while_running == [False]
