"""The demo: what it refuses before anything starts, and its whole run on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from demo import program as demo
from deploy.local.livekit import LiveKitServer
from deploy.local.ports import LOOPBACK, free_port, port_holder
from deploy.local.processes import accepts_connections
from deploy.local.settings import ROOT
from deploy.local.temporal import TemporalServer
from liveavatar_simulator import LiveAvatarSimulator, SimulatorSettings

RUN_WITHIN_S = 100.0
REAL_KEY = "not-a-real-liveavatar-key"
PORTS = (
    "TEMPORAL_PORT",
    "TEMPORAL_UI_PORT",
    "LIVEKIT_PORT",
    "SIMULATOR_PORT",
    "SIMULATOR_MEDIA_PORT",
    "VIEWER_PORT",
)


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if servers are looked for."""

    def started(*_: object) -> None:
        pytest.fail("servers were looked for before the refusal")

    monkeypatch.setattr(demo, "find_temporal", started)
    monkeypatch.setattr(demo, "find_livekit", started)


@pytest.mark.usefixtures("nothing_starts")
def test_the_real_service_without_an_api_key_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LIVEAVATAR_API_KEY", raising=False)

    assert demo.main(["--real"]) == 1

    assert "LIVEAVATAR_API_KEY is not set: export it" in capsys.readouterr().out


@pytest.mark.usefixtures("nothing_starts")
def test_a_missing_audio_file_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("AUDIO", str(tmp_path / "missing.wav"))

    assert demo.main(["--once"]) == 1

    assert "missing.wav: there is no such file." in capsys.readouterr().out


@pytest.mark.usefixtures("nothing_starts")
def test_a_report_that_could_not_be_written_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert demo.main(["--once", "--report", str(tmp_path / "no" / "report.json")]) == 1

    assert "does not exist" in capsys.readouterr().out


@pytest.mark.usefixtures("nothing_starts")
def test_an_unusable_port_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIEWER_PORT", "http")

    assert demo.main(["--once"]) == 1

    assert "VIEWER_PORT" in capsys.readouterr().out


class Running:
    """A demo in a process of its own, on the test run's servers."""

    def __init__(self, process: asyncio.subprocess.Process, ports: dict[str, int]) -> None:
        self.process = process
        self.ports = ports
        self.output = ""

    async def until(self, text: str) -> None:
        """Read until `text` has been printed."""
        assert self.process.stdout is not None
        while text not in self.output:
            line = await asyncio.wait_for(self.process.stdout.readline(), 60)
            assert line, f"the demo ended without {text!r}:\n{self.output}"
            self.output += line.decode()

    async def ended(self) -> int:
        """Read the rest; the exit status."""
        assert self.process.stdout is not None
        rest = await asyncio.wait_for(self.process.stdout.read(), RUN_WITHIN_S)
        self.output += rest.decode()
        return await asyncio.wait_for(self.process.wait(), 5)


Start = Callable[..., contextlib.AbstractAsyncContextManager[Running]]


@pytest.fixture
def start_demo(temporal: TemporalServer, livekit: LiveKitServer, tmp_path: Path) -> Start:
    """Starts demos; those that a test leaves running are killed."""

    @asynccontextmanager
    async def start(
        *arguments: str, own_servers: bool = False, **environment: str
    ) -> AsyncIterator[Running]:
        ports = {name: free_port() for name in PORTS}
        folder = tmp_path / f"demo-{ports['VIEWER_PORT']}"
        shared = {
            "TEMPORAL_ADDRESS": temporal.address,
            "TEMPORAL_UI_URL": temporal.ui_url,
            "LIVEKIT_URL": livekit.url,
            "LIVEKIT_API_KEY": livekit.api_key,
            "LIVEKIT_API_SECRET": livekit.api_secret,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "demo", *arguments),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                **os.environ,
                **{name: str(port) for name, port in ports.items()},
                **({} if own_servers else shared),
                "DEMO_FOLDER": str(folder),
                **environment,
            },
        )
        try:
            yield Running(process, ports)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    return start


@pytest.mark.timeout(150)
async def test_once_runs_unattended_on_servers_of_its_own_and_writes_a_report(
    start_demo: Start, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"

    async with start_demo("--once", "--report", str(file), own_servers=True) as running:
        status = await running.ended()

    assert status == 0, running.output
    report = json.loads(file.read_text())
    assert (report["state"], report["end_reason"]) == ("ENDED", "requested")
    assert report["provider"] == {"started": 1, "stopped": 1, "open": 0}
    outcomes = {utterance["id"]: utterance for utterance in report["utterances"]}
    assert outcomes["hello"]["outcome"] == "completed"
    assert outcomes["hello"]["heard_ms"] == pytest.approx(7312, abs=100)
    assert outcomes["story"]["outcome"] == "interrupted"
    assert outcomes["story"]["heard_ms"] < 8000
    assert report["viewer"]["video_frames"] > 50
    assert report["viewer"]["audio_ms"] > 5000
    assert report["start_ms"] > 0
    assert report["first_audio_ms"] > 0
    assert report["workflow_id"] == f"avatar-session:{report['session_key']}"
    assert set(report["urls"]) == {"temporal_ui", "viewer"}
    assert "echo agent" not in running.output  # no user is there to speak


@pytest.mark.timeout(150)
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_ctrl_c_ends_the_session_before_the_servers_go(
    start_demo: Start, sign: signal.Signals
) -> None:
    """A session that is left open is billed for minutes."""
    async with start_demo() as running:
        await running.until("speaking")
        running.process.send_signal(sign)
        status = await running.ended()

    assert status == demo.INTERRUPTED, running.output
    assert "1 started, 1 stopped, 0 still open" in running.output
    assert "Traceback" not in running.output
    for name in ("SIMULATOR_PORT", "VIEWER_PORT"):
        assert not await accepts_connections(LOOPBACK, running.ports[name])


@pytest.mark.timeout(150)
async def test_a_part_that_dies_ends_the_demo_and_its_last_log_lines_are_shown(
    start_demo: Start,
) -> None:
    async with start_demo("--once") as running:
        await running.until("speaking")
        pid = _listener(running.ports["SIMULATOR_PORT"])
        os.kill(pid, signal.SIGKILL)
        status = await running.ended()

    assert status == 1, running.output
    assert "Simulator ended by itself (signal 9)" in running.output
    assert "Traceback" not in running.output


@pytest.mark.timeout(150)
async def test_an_agent_that_dies_is_shown_and_leaves_the_session_open(start_demo: Start) -> None:
    """A session does not depend on its agent, so it goes on without one."""
    async with start_demo() as running:
        await running.until("press Talk on the page")
        await running.until("avatar-sessions list")
        os.kill(await _child_of(running.process.pid, "examples.echo_agent"), signal.SIGKILL)
        await running.until("Echo agent ended by itself (signal 9)")
        running.process.send_signal(signal.SIGINT)
        status = await running.ended()

    assert status == 0, running.output
    assert "The session goes on" in running.output
    assert "requested" in running.output
    assert "1 started, 1 stopped, 0 still open" in running.output
    assert "Traceback" not in running.output


@pytest_asyncio.fixture
async def service(livekit: LiveKitServer) -> AsyncIterator[LiveAvatarSimulator]:
    """Stands in for the real LiveAvatar: the demo does not know that it is a simulator."""
    settings = SimulatorSettings(
        port=0,
        media_port=0,
        livekit_url=livekit.url,
        livekit_api_key=livekit.api_key,
        livekit_api_secret=SecretStr(livekit.api_secret),
        api_keys=(SecretStr(REAL_KEY),),
        max_video_height=360,
    )
    async with LiveAvatarSimulator(settings) as simulator:
        yield simulator


def real_service(service: LiveAvatarSimulator) -> dict[str, str]:
    """The environment of a user who has an API key."""
    return {"LIVEAVATAR_API_KEY": REAL_KEY, "LIVEAVATAR_API_URL": service.url}


@pytest.mark.timeout(150)
async def test_real_uses_the_service_in_sandbox_mode(
    start_demo: Start, service: LiveAvatarSimulator, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"

    async with start_demo(
        "--real", "--once", "--report", str(file), **real_service(service)
    ) as running:
        status = await running.ended()

    assert status == 0, running.output
    assert REAL_KEY not in running.output
    (line,) = service.ledger().sessions
    assert line.is_sandbox
    assert line.room_kind == "hosted"
    report = json.loads(file.read_text())
    assert report["provider"] == {"started": 1, "stopped": 1, "open": 0}
    assert report["viewer"]["video_frames"] > 50


@pytest.mark.timeout(150)
async def test_a_real_session_is_stopped_directly_when_the_worker_is_dead(
    start_demo: Start, service: LiveAvatarSimulator
) -> None:
    """Without a worker no workflow ends the session: LiveAvatar would bill it to its own limit."""
    async with start_demo("--real", **real_service(service)) as running:
        await running.until("speaking")
        os.kill(await _child_of(running.process.pid, "-m workers"), signal.SIGKILL)
        status = await running.ended()

    assert status == 1, running.output
    assert "Worker ended by itself (signal 9)" in running.output
    ledger = service.ledger()
    assert (ledger.started, ledger.open) == (1, 0)


async def _child_of(parent: int, words: str) -> int:
    """Process id of the child whose command line has these words."""
    ps = await asyncio.create_subprocess_exec(
        *("ps", "-A", "-o", "pid=,ppid=,args="), stdout=asyncio.subprocess.PIPE
    )
    listing, _ = await asyncio.wait_for(ps.communicate(), 10)
    rows = (row.split(None, 2) for row in listing.decode().splitlines())
    (child,) = [int(row[0]) for row in rows if int(row[1]) == parent and words in row[2]]
    return child


def _listener(port: int) -> int:
    """Process id of the listener on a port."""
    holder = port_holder(port)
    assert holder is not None
    return int(holder.rpartition(" ")[2].rstrip(")"))
