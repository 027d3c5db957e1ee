"""What every run of the tests shares: servers, logs, options, the scan for secrets at its end.

`temporal`, `livekit` and `chromium` are the fixtures. The servers are started once a run, by
`tests/support/shared_servers.py`; their programs come from where `make demo` gets them, and a
first build ends before any test's time limit begins. Logs go to `.run/tests-<process id>/`.

The whole suite runs in several processes (pytest-xdist), since most of a test is waiting; a run
of chosen files or folders is one process. `-n` overrides either. `--fast` leaves out every test
that needs a server or a browser, and those marked `slow`.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from deploy.local.binaries import find_livekit, find_temporal
from deploy.local.errors import LocalError
from deploy.local.livekit import LiveKitServer
from deploy.local.settings import ROOT, LocalSettings, find_chromium
from deploy.local.temporal import TemporalServer
from tests.support.scheduling import ALONE, GroupScheduling, group_of
from tests.support.secret_scan import find_secrets, remember, remembered
from tests.support.shared_servers import Addresses, ServerThread

if TYPE_CHECKING:  # pytest-xdist's classes, for its hooks
    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

PROCESSES: Final = 6
"""How many processes run the whole suite. Measured on two cores: 10 min 20 s; with 5 the
cores are idle for much of the run, with 9 tests with deadlines fail by contention."""
FAST_PROCESSES: Final = 3
"""The same for `--fast`, where more of a test is computing."""
SERVERS: Final = frozenset({"temporal", "livekit"})
NOT_FAST: Final = SERVERS | {"chromium"}
RUNS_KEPT: Final = 5
AFTER_LAST_WORKER_S: Final = 0.5
"""A process whose Temporal worker has just shut down can die at interpreter exit (measured: 3 of
12 without this pause, 0 of 12 with it; Python 3.11, temporalio 1.35)."""

_servers = pytest.StashKey[ServerThread]()
_addresses = pytest.StashKey[Addresses]()
_folder = pytest.StashKey[Path]()


# ------------------------------------------------------------------ which tests, in which process


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast",
        action="store_true",
        help="only tests that need no server and no browser, and take no seconds of real time",
    )
    parser.addoption(
        "--record-histories",
        action="store_true",
        help="write a history of each way to end into tests/system/histories",
    )


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: several processes for the whole suite, none for chosen files."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if not whole or config.option.collectonly:
        return 0
    return FAST_PROCESSES if config.getoption("--fast") else PROCESSES


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling | None:
    """Keep groups together; the fast layer has none."""
    return None if config.getoption("--fast") else GroupScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `--fast` leaves out; order the tests for a run in several processes."""
    if config.getoption("--fast"):
        left_out = [item for item in items if not _is_fast(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _is_fast(item)]
    if hasattr(config, "workerinput"):
        items.sort(key=_rank)


def _is_fast(item: pytest.Item) -> bool:
    needs = NOT_FAST & set(getattr(item, "fixturenames", ()))
    return not needs and item.get_closest_marker("slow") is None


def _rank(item: pytest.Item) -> float:
    """Sort key: groups, then the longest time limits, tests without a server, the group ALONE."""
    group = group_of(item.nodeid)
    if group is not None:
        return 1000.0 if group == ALONE else -1000.0
    limit = item.get_closest_marker("timeout")
    seconds = float(limit.args[0]) if limit is not None else 60.0
    return -seconds if not _is_fast(item) else 0.0


# ------------------------------------------------------------------ servers of the run


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.stash[_folder] = Path(config.workerinput["run_folder"])
        config.stash[_addresses] = Addresses.from_words(config.workerinput["addresses"])
    else:
        config.stash[_folder] = ROOT / ".run" / f"tests-{os.getpid()}"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist starts its processes
def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the servers for the processes of a distributed run."""
    config = session.config
    if not config.option.collectonly and config.option.tx:
        wanted = frozenset() if config.getoption("--fast") else SERVERS
        _start_servers(config, wanted)


def pytest_configure_node(node: WorkerController) -> None:
    """Hand the servers' addresses to a process that runs tests."""
    folder = node.config.stash[_folder] / node.gateway.id
    node.workerinput["run_folder"] = str(folder)
    node.workerinput["addresses"] = node.config.stash[_addresses].to_words()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the servers that the chosen tests need, where one process runs them all."""
    config = session.config
    distributed = bool(config.option.tx) or hasattr(config, "workerinput")
    if config.option.collectonly or distributed:
        return
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    _start_servers(config, SERVERS & needed)


def _start_servers(config: pytest.Config, wanted: frozenset[str]) -> None:
    servers = ServerThread(_new_run_folder(config.stash[_folder]))
    config.stash[_servers] = servers
    settings = LocalSettings()
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            temporal = find_temporal(settings, sys.stderr) if "temporal" in wanted else None
            livekit = find_livekit(settings, sys.stderr) if "livekit" in wanted else None
            config.stash[_addresses] = servers.start(temporal, livekit)
        except LocalError as error:
            pytest.exit("\n".join((*error.detail, error.sentence)), returncode=1)


def _new_run_folder(folder: Path) -> Path:
    """Create it; the folders of a few earlier runs are kept beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    earlier = sorted(folder.parent.glob("tests-*"), key=lambda path: path.stat().st_mtime)
    for path in earlier[:-RUNS_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def run_folder(pytestconfig: pytest.Config) -> Path:
    """Where this process of the run keeps its logs. The scan for secrets reads them."""
    folder = pytestconfig.stash[_folder]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _log_of_the_run(run_folder: Path) -> None:
    """Everything this process logs, in a file that the secret scan reads."""
    handler = logging.FileHandler(run_folder / "tests.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


@pytest_asyncio.fixture(scope="session")
async def temporal(pytestconfig: pytest.Config) -> TemporalServer:
    """A real Temporal dev server: `.address`, `.namespace`, `.ui_url`, `await .client()`.

    Each process of a distributed run has a namespace of its own: workers of two processes would
    otherwise take each other's tasks.
    """
    server = pytestconfig.stash[_addresses].temporal
    assert server is not None
    worker = getattr(pytestconfig, "workerinput", None)
    if worker is None:
        return server
    client = await server.new_namespace(worker["workerid"])
    return replace(server, namespace=client.namespace)


@pytest.fixture(scope="session")
def livekit(pytestconfig: pytest.Config) -> LiveKitServer:
    """A real LiveKit server: `.url` (ws://), `.api_key`, `.api_secret`."""
    server = pytestconfig.stash[_addresses].livekit
    assert server is not None
    return server


@pytest.fixture(scope="session")
def chromium() -> Path:
    """Path of a Chromium or Chrome. Without one: a skip, but a failure where CI=true."""
    settings = LocalSettings()
    path = find_chromium(settings)
    if path is None:
        reason = "no Chromium found: install Debian's `chromium`, or set CHROMIUM to its path"
        if settings.ci:
            pytest.fail(reason)
        pytest.skip(reason)
    return path


# ------------------------------------------------------------------ the end of the run


def pytest_testnodedown(node: WorkerController, error: object) -> None:
    """Learn the secrets that a process made, for the scan."""
    output: dict[str, Any] = getattr(node, "workeroutput", {})
    for secret, kind in output.get("secrets", {}).items():
        remember(secret, kind)


@pytest.hookimpl(trylast=True)  # after the fixtures' teardown, and after the other processes' end
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the servers. Fail the run if a secret stands in a history or a log that it wrote."""
    config = session.config
    if hasattr(config, "workerinput"):
        config.workeroutput["secrets"] = remembered()  # type: ignore[attr-defined]
        return
    servers = config.stash.get(_servers, None)
    if servers is None:
        return
    leaks = servers.leaks()
    servers.close()  # they write to their logs until they end
    leaks += find_secrets(config.stash[_folder])
    if leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        sys.stderr.write("\nsecrets in the histories or logs of this run:\n")
        sys.stderr.writelines(f"  {leak}\n" for leak in leaks)


def pytest_unconfigure() -> None:
    """Let the SDK's threads settle before the interpreter goes."""
    if "temporalio.worker" in sys.modules:
        time.sleep(AFTER_LAST_WORKER_S)
