"""The layers of the tests: what `--fast` leaves out, and that it starts no server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.settings import ROOT
from tests.support.scheduling import GROUPS, group_of


@pytest.mark.slow  # starts processes
def test_the_fast_layer_needs_no_server(tmp_path: Path) -> None:
    """With an empty cache and nothing on PATH, no server could be found or built."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--fast", "tests/deploy/local/test_stack.py"],
        cwd=ROOT,
        env={"PATH": "", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert ended.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, ended.stdout + ended.stderr
    assert "deselected" in ended.stdout


@pytest.mark.parametrize(("start", "group"), GROUPS)
def test_a_group_is_known_by_its_path(start: str, group: str) -> None:
    """The plugin's own groups had no effect: each process of a run started a whole demo."""
    assert (ROOT / start).exists()
    assert group_of(f"{start}::test_x") == group
    assert group_of("tests/system/test_replay.py::test_x") is None
