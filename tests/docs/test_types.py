"""The Python of the pages passes mypy --strict as a reader would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.settings import ROOT
from tests.support.markdown import code_blocks

TYPE_CHECK_TIMEOUT_S = 240.0


@pytest.mark.slow
@pytest.mark.timeout(TYPE_CHECK_TIMEOUT_S + 10)
def test_python_blocks_pass_strict_type_checks(tmp_path: Path) -> None:
    """README's first example once failed here: `avatar_id` and an optional `access.agent`.

    No plugin and no setting of this project is used, for a reader has neither.
    """
    names = {}
    for number, block in enumerate(b for b in code_blocks() if b.language == "python"):
        (tmp_path / f"block_{number}.py").write_text(block.body)
        names[f"block_{number}.py"] = str(block)

    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file", "/dev/null"),
            *("--cache-dir", str(ROOT / ".mypy_cache" / "docs"), "--ignore-missing-imports"),
            *sorted(names),
        ],
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=TYPE_CHECK_TIMEOUT_S,
        check=False,
    )

    output = checked.stdout
    for name, block_name in names.items():
        output = output.replace(name, block_name)
    assert checked.returncode == 0, output + checked.stderr
