"""Where the real servers come from: running, installed, built by Go from a pin, or downloaded.

The order is fixed. Builds are cached per version in the user's cache folder. This module starts
no server.

`python -m deploy.local.binaries` finds or builds both servers.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from deploy.local.console import ProgressLine
from deploy.local.errors import BuildFailed, LocalError, ServerUnavailable
from deploy.local.settings import LocalSettings

GO_MODULES = Path(__file__).resolve().parent / "go"

BUILD_TIMEOUT_S = 1800.0
GO_QUIET_S = 5.0
_LAST_LINES = 15


@dataclass(frozen=True, slots=True)
class GoServer:
    """A server pinned by a wrapper module: its go.mod says which version, go.sum which bytes."""

    title: str
    binary: str
    module: str
    package: str
    folder: Path
    install_hint: str

    @property
    def version(self) -> str:
        """The pinned version, for example "v1.8.2"."""
        return self._go_mod_word(rf"^(?:require )?\s*{re.escape(self.module)} (v\S+)")

    @property
    def go_version(self) -> str:
        """The oldest Go that can build it, for example "1.26.4"."""
        return self._go_mod_word(r"^go (\S+)")

    def _go_mod_word(self, pattern: str) -> str:
        match = re.search(pattern, (self.folder / "go.mod").read_text(), re.MULTILINE)
        if match is None:
            raise ServerUnavailable(f"{self.folder / 'go.mod'} does not pin {self.title}")
        return match.group(1)

    def cached_binary(self, cache: Path) -> Path:
        """Where its build is kept: one folder for each version, set of pins and kind of machine."""
        digest = hashlib.sha256(f"{platform.system()}-{platform.machine()}".encode())
        for pin in ("go.mod", "go.sum"):
            digest.update((self.folder / pin).read_bytes())
        return cache / f"{self.binary}-{self.version}-{digest.hexdigest()[:12]}" / self.binary


TEMPORAL = GoServer(
    title="Temporal",
    binary="temporal",
    module="github.com/temporalio/cli",
    package="github.com/temporalio/cli/cmd/temporal",
    folder=GO_MODULES / "temporal",
    install_hint="`brew install temporal`, or https://docs.temporal.io/cli/setup-cli",
)
LIVEKIT = GoServer(
    title="LiveKit",
    binary="livekit-server",
    module="github.com/livekit/livekit-server",
    package="github.com/livekit/livekit-server/cmd/server",
    folder=GO_MODULES / "livekit",
    install_hint="`brew install livekit`, or `curl -sSL https://get.livekit.io | bash` on Linux",
)


def needed_go() -> str:
    """The oldest Go that builds both servers: README and the errors name this one."""
    versions = (TEMPORAL.go_version, LIVEKIT.go_version)
    return max(versions, key=lambda version: [int(part) for part in version.split(".")])


@dataclass(frozen=True, slots=True)
class RunningServer:
    """The server runs already, at `address`; the stack uses it and never stops it."""

    address: str


@dataclass(frozen=True, slots=True)
class Binary:
    """The server's program is at `path`; `origin` says where it came from."""

    path: Path
    origin: str


@dataclass(frozen=True, slots=True)
class SdkDownload:
    """Temporal's SDK downloads the dev server when it is started; needs internet access."""


TemporalSource = RunningServer | Binary | SdkDownload
LiveKitSource = RunningServer | Binary


def find_temporal(settings: LocalSettings, out: TextIO) -> TemporalSource:
    """Find Temporal; build it if it must be built. Progress goes to `out`.

    Raises:
        BuildFailed: Go is there, but the build failed.
    """
    if settings.temporal_address is not None:
        return RunningServer(settings.temporal_address)
    return _installed(TEMPORAL) or _built(TEMPORAL, settings, out) or SdkDownload()


def find_livekit(settings: LocalSettings, out: TextIO) -> LiveKitSource:
    """Find LiveKit; build it if it must be built. Progress goes to `out`.

    Raises:
        BuildFailed: Go is there, but the build failed.
        ServerUnavailable: LiveKit neither runs nor is installed, and there is no Go to build it.
    """
    if settings.livekit_url is not None:
        return RunningServer(settings.livekit_url)
    found = _installed(LIVEKIT) or _built(LIVEKIT, settings, out)
    if found is None:
        raise ServerUnavailable(
            "LiveKit is needed: install it "
            f"({LIVEKIT.install_hint}), or install Go {needed_go()} or newer "
            "(https://go.dev/doc/install) and it is built here, or set LIVEKIT_URL, "
            "LIVEKIT_API_KEY and LIVEKIT_API_SECRET to one that runs."
        )
    return found


def _installed(server: GoServer) -> Binary | None:
    path = shutil.which(server.binary)
    return Binary(Path(path), "installed") if path else None


def _built(server: GoServer, settings: LocalSettings, out: TextIO) -> Binary | None:
    binary = server.cached_binary(settings.cache_folder)
    if not binary.exists():
        go = shutil.which("go")
        if go is None:
            return None
        build(server, Path(go), settings.cache_folder, out)
    return Binary(binary, f"built from {server.module} {server.version}")


def build(server: GoServer, go: Path, cache: Path, out: TextIO) -> Path:
    """Build a server into `cache` unless it is there, and return its path.

    The program is written under another name and renamed when it is complete. A second build of
    the same server waits for the first.

    Raises:
        BuildFailed: with the compiler's last lines.
    """
    binary = server.cached_binary(cache)
    binary.parent.mkdir(parents=True, exist_ok=True)
    with ProgressLine(out, f"  {server.title} {server.version}") as progress:
        with _locked(binary.parent / "lock", progress):
            if binary.exists():
                return binary
            for stale in binary.parent.glob("*.partial"):  # of a build that was killed
                stale.unlink()
            partial = binary.with_name(f"{server.binary}.partial")
            try:
                _compile(server, go, partial, progress)
                partial.replace(binary)
            finally:
                partial.unlink(missing_ok=True)
        elapsed_s = progress.elapsed_s
    size_mb = binary.stat().st_size / 1e6
    out.write(f"  {server.title} {server.version}: built in {elapsed_s:.0f} s, {size_mb:.0f} MB\n")
    return binary


@contextlib.contextmanager
def _locked(path: Path, progress: ProgressLine) -> Iterator[None]:
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if progress.elapsed_s > BUILD_TIMEOUT_S:
                    raise BuildFailed(
                        f"another build has held {path} for over {BUILD_TIMEOUT_S / 60:.0f} minutes"
                    ) from None
                progress.update("waiting for another build of it")
                time.sleep(0.2)
        yield


class _GoOutput:
    """Turns what `go list` and `go build -v` print into a progress line."""

    def __init__(self, progress: ProgressLine) -> None:
        self._progress = progress
        self._fetched = 0
        self._listed = 0
        self._compiled = 0

    def on_list_line(self, line: str | None) -> None:
        """A line of `go list -deps`: a module being downloaded, or a package that is needed."""
        if line is not None and line.startswith("go: downloading"):
            self._fetched += 1
        elif line is not None and " " not in line:
            self._listed += 1
        self._progress.update(f"fetching sources, {self._fetched} modules so far")

    def on_build_line(self, line: str | None) -> None:
        """A line of `go build -v`: a package that is being compiled (cached ones are not named)."""
        if line is not None and " " not in line:
            self._compiled += 1
        self._progress.update(f"compiling, {self._compiled} of up to {self._listed} packages")


def _compile(server: GoServer, go: Path, output: Path, progress: ProgressLine) -> None:
    """Download the sources, count the packages, compile. Two commands, to know the total."""
    shown = _GoOutput(progress)
    # Named explicitly, so that GOFLAGS in the environment cannot change the result.
    flags = ["-mod=readonly", "-trimpath", "-buildvcs=false"]
    _run_go(server, go, ["list", *flags, "-deps", server.package], progress, shown.on_list_line)
    build = ["build", *flags, "-v", "-ldflags", "-s -w", "-o", str(output), server.package]
    _run_go(server, go, build, progress, shown.on_build_line)


def _go_environment() -> Mapping[str, str]:
    # No C compiler is needed; a workspace file above the checkout must not apply.
    return {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}


def _run_go(
    server: GoServer,
    go: Path,
    arguments: list[str],
    progress: ProgressLine,
    on_line: Callable[[str | None], None],
) -> None:
    """Run one go command in the server's module; it never outlives this call.

    `on_line` gets each line of output, and None every half second without one.
    """
    process = subprocess.Popen(
        [str(go), *arguments],
        cwd=server.folder,
        env=_go_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(
        target=_read_lines, args=(process.stdout, lines), name=f"go {arguments[0]}", daemon=True
    )
    reader.start()
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        while True:
            if progress.elapsed_s > BUILD_TIMEOUT_S:
                raise BuildFailed(
                    f"building {server.title} took more than {BUILD_TIMEOUT_S / 60:.0f} minutes",
                    list(last_lines),
                )
            try:
                line = lines.get(timeout=0.5)
            except queue.Empty:
                on_line(None)
                continue
            if line is None:  # end of output
                break
            if " " in line:  # not a package's name
                last_lines.append(line)
            on_line(line)
        status = process.wait(timeout=GO_QUIET_S)
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=GO_QUIET_S)
        reader.join(timeout=GO_QUIET_S)
        process.stdout.close()
    if status != 0:
        raise BuildFailed(_why_go_failed(server, go, list(last_lines)), list(last_lines))


def _read_lines(stream: TextIO, lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line.rstrip())
    lines.put(None)


def _why_go_failed(server: GoServer, go: Path, last_lines: list[str]) -> str:
    """One sentence for the compiler's output: Go too old, no network, disk full, or other."""
    said = "\n".join(last_lines)
    instead = f"or install {server.title} itself: {server.install_hint}."
    if re.search(r"GOTOOLCHAIN=local|invalid go version|requires go ", said):
        return (
            f"the Go at {go} is older than {server.go_version}, which {server.title} needs, and "
            "may not fetch a newer one: install it (https://go.dev/doc/install), "
            f"or allow it with GOTOOLCHAIN=auto, {instead}"
        )
    if re.search(r"toolchain not available|download go\d", said):
        return (
            f"the Go at {go} is older than {server.go_version}, which {server.title} needs, and a "
            f"newer one could not be fetched: install it (https://go.dev/doc/install), {instead}"
        )
    if re.search(r"dial tcp|no such host|i/o timeout|module lookup disabled|TLS handshake", said):
        return (
            f"the sources of {server.title} could not be fetched: connect to a network, {instead}"
        )
    if "no space left on device" in said:
        return f"the disk is full: building {server.title} needs about 4 GB for Go's own caches."
    return f"building {server.title} {server.version} failed: repair what Go reports, {instead}"


def interrupt_on_sigterm() -> None:
    """Let SIGTERM unwind the program as Ctrl-C does, so that a build in progress is removed."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def main() -> int:
    """Find or build both servers, and print where they are."""
    interrupt_on_sigterm()
    out = sys.stderr
    try:
        settings = LocalSettings()
        for title, source in (
            ("Temporal", find_temporal(settings, out)),
            ("LiveKit", find_livekit(settings, out)),
        ):
            sys.stdout.write(f"  {title:<9} {describe(source)}\n")
    except LocalError as error:
        sys.stderr.write("".join(f"    {line}\n" for line in error.detail))
        sys.stderr.write(f"error: {error.sentence}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: no incomplete build is left\n")
        return 130
    return 0


def describe(source: TemporalSource | LiveKitSource) -> str:
    """A few words on where a server comes from."""
    match source:
        case RunningServer(address):
            return f"running at {address}"
        case Binary(path, origin):
            return f"{path} ({origin})"
        case SdkDownload():
            return "will be downloaded by Temporal's SDK"


if __name__ == "__main__":
    sys.exit(main())
