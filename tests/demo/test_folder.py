"""A folder serves one demo at a time."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from demo.folder import DemoFolder
from deploy.local.errors import LocalError


def test_a_second_demo_does_not_delete_the_files_of_the_first(tmp_path: Path) -> None:
    """A second run in one checkout removed the first one's environment file, clips and logs."""
    first, second = DemoFolder(tmp_path / "demo"), DemoFolder(tmp_path / "demo")
    with first.in_use():
        first.write_environment({"NAME": "value"}, unset=(), path=tmp_path)
        (first.logs / "worker.log").write_text("a line")
        with pytest.raises(LocalError, match="another demo runs in"), second.in_use():
            pass
        assert first.env.exists()
        assert (first.logs / "worker.log").exists()
    with second.in_use():
        assert not list(second.logs.iterdir())


def test_the_environment_file_is_private_sourced_by_a_shell_and_removed(
    tmp_path: Path,
) -> None:
    folder = DemoFolder(tmp_path / "demo")
    with folder.in_use():
        folder.write_environment({"NAME": "it's $HOME"}, unset=("OTHER",), path=tmp_path)
        assert stat.S_IMODE(folder.env.stat().st_mode) == 0o600
        ran = subprocess.run(
            ["sh", "-c", f'. {folder.env}; printf "%s|%s" "$NAME" "${{OTHER-unset}}"'],
            env={"OTHER": "old", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        assert ran.stdout == "it's $HOME|unset"
    assert not folder.env.exists()
