"""Real servers for the tests, started once per run on free ports; and what every run ends with.

`temporal`, `livekit` and `chromium` are the fixtures. Servers come from where `make demo` gets
them; a first build happens after collection, before any test's time limit runs. Their logs go
to `.run/tests-<process id>/`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from deploy.local.binaries import LiveKitSource, TemporalSource, find_livekit, find_temporal
from deploy.local.errors import LocalError
from deploy.local.livekit import LiveKitServer, start_livekit
from deploy.local.ports import free_port
from deploy.local.processes import Supervisor
from deploy.local.settings import ROOT, LocalSettings, find_chromium
from deploy.local.temporal import TemporalServer, start_temporal
from tests.support.secret_scan import find_secrets, leaks_in_histories

RUN_FOLDER = ROOT / ".run" / f"tests-{os.getpid()}"
RUNS_KEPT = 5
# A process whose Temporal worker has just shut down can die at interpreter exit (measured: 3 of
# 12 without this pause, 0 of 12 with it; Python 3.11, temporalio 1.35).
AFTER_LAST_WORKER_S = 0.5

_temporal_source = pytest.StashKey[TemporalSource]()
_livekit_source = pytest.StashKey[LiveKitSource]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-histories",
        action="store_true",
        help="write a history of each way to end into tests/system/histories",
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Get the servers that the chosen tests need, before any test's clock runs."""
    if session.config.option.collectonly:
        return
    needed: set[str] = set()
    for item in session.items:
        needed.update(getattr(item, "fixturenames", ()))
    settings = LocalSettings()
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            if "temporal" in needed:
                session.config.stash[_temporal_source] = find_temporal(settings, sys.stderr)
            if "livekit" in needed:
                session.config.stash[_livekit_source] = find_livekit(settings, sys.stderr)
        except LocalError as error:
            pytest.exit("\n".join((*error.detail, error.sentence)), returncode=1)


@pytest.fixture(scope="session")
def run_folder() -> Path:
    """Where this run keeps its logs; the folders of a few earlier runs are kept beside it."""
    RUN_FOLDER.mkdir(parents=True, exist_ok=True)
    earlier = sorted(RUN_FOLDER.parent.glob("tests-*"), key=lambda path: path.stat().st_mtime)
    for path in earlier[:-RUNS_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
    return RUN_FOLDER


@pytest_asyncio.fixture(scope="session")
async def supervisor(run_folder: Path) -> AsyncIterator[Supervisor]:
    """Runs the servers; ends them with the test session, however it ends."""
    async with Supervisor(run_folder) as supervisor:
        yield supervisor


@pytest_asyncio.fixture(scope="session")
async def temporal(
    supervisor: Supervisor, pytestconfig: pytest.Config
) -> AsyncIterator[TemporalServer]:
    """A real Temporal dev server: `.address`, `.namespace`, `.ui_url`, `await .client()`."""
    settings = LocalSettings(temporal_port=free_port(), temporal_ui_port=free_port())
    source = pytestconfig.stash[_temporal_source]
    server = await start_temporal(supervisor, source, settings)
    yield server
    leaks = [line async for line in leaks_in_histories(server)]
    assert not leaks, leaks


@pytest_asyncio.fixture(scope="session")
async def livekit(supervisor: Supervisor, pytestconfig: pytest.Config) -> LiveKitServer:
    """A real LiveKit server: `.url` (ws://), `.api_key`, `.api_secret`."""
    settings = LocalSettings(livekit_port=free_port())
    source = pytestconfig.stash[_livekit_source]
    return await start_livekit(supervisor, source, settings)


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


@pytest.hookimpl(trylast=True)  # after the fixtures' teardown: servers still write while they end
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a secret stands in a log that it wrote."""
    leaks = find_secrets(RUN_FOLDER)
    if leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        sys.stderr.write("\nsecrets in the logs of this run:\n")
        sys.stderr.writelines(f"  {leak}\n" for leak in leaks)


def pytest_unconfigure() -> None:
    """Let the SDK's threads settle before the interpreter goes."""
    if "temporalio.worker" in sys.modules:
        time.sleep(AFTER_LAST_WORKER_S)
