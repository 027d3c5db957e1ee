"""The Makefile documents every target that it has."""

from __future__ import annotations

import re
import subprocess

from deploy.local.settings import ROOT


def test_make_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)) - {"help"}

    printed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout

    assert targets == set(re.findall(r"^make ([a-z-]+)", printed, re.MULTILINE))


def test_the_fast_layer_builds_no_server() -> None:
    def commands(*words: str) -> str:
        return subprocess.run(
            ["make", "--no-print-directory", "--dry-run", "test", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout

    assert "deploy.local.binaries" in commands()
    assert "deploy.local.binaries" not in commands("ARGS=--fast -k x")
