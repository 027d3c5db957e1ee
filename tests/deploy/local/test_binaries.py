"""Servers come from the first of four sources, and a build is complete or absent.

The builds here are real ones, of a module small enough to compile in a second.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.local.binaries import (
    LIVEKIT,
    TEMPORAL,
    Binary,
    GoServer,
    RunningServer,
    SdkDownload,
    build,
    find_livekit,
    find_temporal,
    needed_go,
)
from deploy.local.errors import BuildFailed, ServerUnavailable
from deploy.local.settings import ROOT, LocalSettings

GO = shutil.which("go")
needs_go = pytest.mark.skipif(GO is None, reason="Go is not installed")

HELLO = 'package main\n\nimport _ "example.test/dep"\n\nfunc main() { println("hello") }\n'


def tiny_server(folder: Path, *, main: str = HELLO, go: str = "1.21") -> GoServer:
    """A wrapper module like those of Temporal and LiveKit, pinning a module that lies beside it."""
    (folder / "dep").mkdir(parents=True)
    (folder / "go.mod").write_text(
        f"module example.test/tiny\n\ngo {go}\n\nrequire example.test/dep v1.2.3\n\n"
        "replace example.test/dep => ./dep\n"
    )
    (folder / "go.sum").write_text("")
    (folder / "main.go").write_text(main)
    (folder / "dep" / "go.mod").write_text("module example.test/dep\n\ngo 1.21\n")
    (folder / "dep" / "dep.go").write_text("package dep\n")
    return GoServer(
        title="Tiny",
        binary="tiny",
        module="example.test/dep",
        package="example.test/tiny",
        folder=folder,
        install_hint="`install tiny`",
    )


def only_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path, *programs: str) -> None:
    """Let PATH hold nothing but programs of these names."""
    folder.mkdir()
    for program in programs:
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalSettings:
    """Settings of a user who has set nothing, with an empty cache folder."""
    for name in ("TEMPORAL_ADDRESS", "LIVEKIT_URL"):
        monkeypatch.delenv(name, raising=False)
    return LocalSettings(xdg_cache_home=tmp_path / "cache")


def test_the_pins_of_both_servers_are_readable() -> None:
    assert TEMPORAL.version.startswith("v")
    assert LIVEKIT.version.startswith("v")
    assert TEMPORAL.go_version >= "1.26"


def test_readme_and_errors_name_one_version_of_go() -> None:
    """README said 1.21, one error 1.26 and another 1.26.4: Temporal needs the newest of them."""
    assert needed_go() == max(TEMPORAL.go_version, LIVEKIT.go_version)
    for page in ("README.md", "docs/guide/demo.md"):
        assert f"Go {needed_go()} or newer" in (ROOT / page).read_text()


def test_a_running_server_is_preferred() -> None:
    settings = LocalSettings(temporal_address="temporal.test:7233", livekit_url="ws://livekit.test")

    assert find_temporal(settings, io.StringIO()) == RunningServer("temporal.test:7233")
    assert find_livekit(settings, io.StringIO()) == RunningServer("ws://livekit.test")


def test_an_installed_server_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: LocalSettings
) -> None:
    only_on_path(monkeypatch, tmp_path / "bin", "temporal", "livekit-server", "go")

    temporal = find_temporal(settings, io.StringIO())
    livekit = find_livekit(settings, io.StringIO())

    assert temporal == Binary(tmp_path / "bin" / "temporal", "installed")
    assert livekit == Binary(tmp_path / "bin" / "livekit-server", "installed")


def test_a_build_in_the_cache_is_used_even_without_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: LocalSettings
) -> None:
    only_on_path(monkeypatch, tmp_path / "bin")
    cached = LIVEKIT.cached_binary(settings.cache_folder)
    cached.parent.mkdir(parents=True)
    cached.write_text("")

    found = find_livekit(settings, io.StringIO())

    assert isinstance(found, Binary)
    assert found.path == cached
    assert LIVEKIT.version in str(cached)


def test_without_go_temporal_is_downloaded_by_its_sdk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: LocalSettings
) -> None:
    only_on_path(monkeypatch, tmp_path / "bin")

    assert find_temporal(settings, io.StringIO()) == SdkDownload()


def test_without_go_the_error_has_the_commands_that_install_livekit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: LocalSettings
) -> None:
    only_on_path(monkeypatch, tmp_path / "bin")

    with pytest.raises(ServerUnavailable) as caught:
        find_livekit(settings, io.StringIO())

    for part in ("brew install livekit", "get.livekit.io", "https://go.dev/doc/install"):
        assert part in str(caught.value)


@needs_go
def test_a_pinned_server_is_built_once_and_then_taken_from_the_cache(tmp_path: Path) -> None:
    server, cache, out = tiny_server(tmp_path / "tiny"), tmp_path / "cache", io.StringIO()

    first = build(server, Path(str(GO)), cache, out)
    built_at = first.stat().st_mtime_ns
    second = build(server, Path(str(GO)), cache, out)

    assert second == first
    assert second.stat().st_mtime_ns == built_at
    assert subprocess.run([second], capture_output=True, check=True).stderr == b"hello\n"
    assert out.getvalue().count("built in") == 1


@needs_go
def test_two_builds_at_the_same_time_compile_once(tmp_path: Path) -> None:
    server, cache = tiny_server(tmp_path / "tiny"), tmp_path / "cache"
    outs = [io.StringIO(), io.StringIO()]

    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda out: build(server, Path(str(GO)), cache, out), outs))

    assert paths[0] == paths[1]
    assert sum(out.getvalue().count("built in") for out in outs) == 1


@needs_go
def test_a_changed_pin_is_another_build(tmp_path: Path) -> None:
    server, cache = tiny_server(tmp_path / "tiny"), tmp_path / "cache"
    before = server.cached_binary(cache)

    (server.folder / "go.sum").write_text("example.test/dep v1.2.3 h1:changed=\n")

    assert server.cached_binary(cache) != before


@needs_go
def test_a_failed_build_shows_the_last_lines_of_go_and_leaves_no_file(tmp_path: Path) -> None:
    server = tiny_server(tmp_path / "tiny", main="package main\n\nfunc main() { oops() }\n")

    with pytest.raises(BuildFailed) as caught:
        build(server, Path(str(GO)), tmp_path / "cache", io.StringIO())

    assert any("undefined: oops" in line for line in caught.value.detail)
    assert "`install tiny`" in str(caught.value)
    folder = server.cached_binary(tmp_path / "cache").parent
    assert [path.name for path in folder.iterdir()] == ["lock"]


@needs_go
def test_the_error_names_a_go_that_is_too_old_and_may_not_download_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOTOOLCHAIN", "local")
    server = tiny_server(tmp_path / "tiny", go="1.999")

    with pytest.raises(BuildFailed, match="GOTOOLCHAIN=auto") as caught:
        build(server, Path(str(GO)), tmp_path / "cache", io.StringIO())

    assert "is older than 1.999, which Tiny needs" in str(caught.value)


@needs_go
def test_the_error_names_sources_that_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOPROXY", "off")
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    server = tiny_server(tmp_path / "tiny")
    mod = server.folder / "go.mod"
    mod.write_text(mod.read_text().replace("replace example.test/dep => ./dep\n", ""))
    (server.folder / "go.sum").write_text(
        "example.test/dep v1.2.3 h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
        "example.test/dep v1.2.3/go.mod h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    )

    with pytest.raises(BuildFailed, match="the sources of Tiny could not be fetched"):
        build(server, Path(str(GO)), tmp_path / "cache", io.StringIO())


SLOW_GO = """#!/bin/sh
# Stands in for a compiler that is in the middle of writing its output.
if [ "$1" = build ]; then
    while [ "$1" != -o ]; do shift; done
    echo half >"$2"
    while echo "half of it is written"; do sleep 0.1; done  # ends when its output is closed
fi
"""
BUILDER = """
import sys
from pathlib import Path
from deploy.local import binaries
from tests.deploy.local.test_binaries import tiny_server
folder = Path(sys.argv[1])
binaries.interrupt_on_sigterm()
binaries.build(tiny_server(folder / "tiny"), folder / "go", folder / "cache", sys.stderr)
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_incomplete_program(
    tmp_path: Path, sign: signal.Signals
) -> None:
    """After SIGKILL the incomplete file keeps another name, and the next build removes it."""
    (tmp_path / "go").write_text(SLOW_GO)
    (tmp_path / "go").chmod(0o755)
    builder = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    partials: list[Path] = []
    give_up_at = time.monotonic() + 30
    while not partials and time.monotonic() < give_up_at:
        partials = list(tmp_path.glob("cache/*/*.partial"))
        time.sleep(0.02)
    (partial,) = partials

    os.kill(builder.pid, sign)
    builder.wait(timeout=15)

    assert not partial.with_suffix("").exists()
    assert partial.exists() == (sign == signal.SIGKILL)
    if GO is not None:
        shutil.rmtree(tmp_path / "tiny")
        server = tiny_server(tmp_path / "tiny")
        assert build(server, Path(GO), tmp_path / "cache", io.StringIO()).exists()
        assert not partial.exists()
