"""The folder of one running demo: its logs, its clips, and the variables for another terminal.

A folder serves one demo at a time, so that a second one cannot delete the first one's files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deploy.local.errors import LocalError


class DemoFolder:
    """Paths in the folder; `in_use` locks it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.clips = path / "clips"
        self.env = path / "env"

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Lock the folder and empty it.

        Raises:
            LocalError: another demo uses it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalError(
                    f"another demo runs in {self.path}: end it with Ctrl-C, or choose another"
                    " folder with DEMO_FOLDER=... and other ports."
                ) from None
            for folder in (self.logs, self.clips):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            self.env.unlink(missing_ok=True)
            try:
                yield
            finally:
                self.env.unlink(missing_ok=True)

    def add_clips(self, sources: Sequence[Path]) -> None:
        """Copy clips to the folder that the worker reads."""
        for source in sources:
            shutil.copyfile(source, self.clips / source.name)

    def write_environment(
        self, exports: Mapping[str, str], *, unset: Sequence[str], path: Path
    ) -> None:
        """Write `env`, to be read with `.` by a shell; readable by its owner only."""
        lines = [f"unset {' '.join(unset)}\n"] if unset else []
        lines += [f"export {name}={shlex.quote(text)}\n" for name, text in exports.items()]
        lines.append(f'export PATH={shlex.quote(str(path))}:"$PATH"\n')
        descriptor = os.open(self.env, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(lines)
