"""A separate wall clock for a process, which jumps on request (Debian's libfaketime).

The kernel has one wall clock for all processes, so the clock is faked inside the process under
test. Its monotonic clock goes on, as it does when a real clock is set.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

HOW_TO_GET_IT: Final = "needs libfaketime: apt-get install -y faketime"
SEEN_WITHIN_S: Final = 1
"""How often a process reads its clock's file: a read takes 4 µs, and clocks are read often."""
_LIBRARY: Final = "faketime/libfaketimeMT.so.1"
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the kernel's own path
_LIBRARY_FOLDERS: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib")


def faketime() -> Path | None:
    """The library's path; None: it is not installed."""
    for folder in map(Path, _LIBRARY_FOLDERS):
        for found in (folder / _LIBRARY, *sorted(folder.glob(f"*-linux-*/{_LIBRARY}"))):
            if found.exists():
                return found
    return None


def missing() -> str | None:
    """How to install what fake clocks need; None: it is installed."""
    return HOW_TO_GET_IT if faketime() is None else None


class FakeClock:
    """The wall clock of one or more processes, set by a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.off_s = 0
        """Offset from the kernel's clock."""
        self.jump(0)

    async def reset(self) -> None:
        """Return to the kernel's time, and wait until the processes see it."""
        if self.off_s:
            self.jump(0)
            await asyncio.sleep(2 * SEEN_WITHIN_S)

    def jump(self, seconds: int) -> None:
        """Set the offset from the kernel's clock; processes see it within `SEEN_WITHIN_S`."""
        self.off_s = seconds
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)  # atomic: a process never reads half a file

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that make a process use this clock.

        Raises:
            LookupError: libfaketime is not installed.
        """
        library = faketime()
        if library is None:
            raise LookupError(HOW_TO_GET_IT)
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(SEEN_WITHIN_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Its workaround for an old glibc bug delays every hand-over between threads by 20 ms.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }


def remove_shared_memory(pid: int) -> None:
    """Remove the shared memory that libfaketime leaves behind when its process is killed."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        (_SHARED_MEMORY / name).unlink(missing_ok=True)
