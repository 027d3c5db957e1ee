"""A wall clock of its own for a process, which jumps when it is told to (Debian's libfaketime).

The kernel has one wall clock for all processes, so it is faked inside the one that is broken. Its
monotonic clock goes on, as it does where a real clock is set.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

HOW_TO_GET_IT: Final = "needs libfaketime: apt-get install -y faketime"
SEEN_WITHIN_S: Final = 1
"""How often a process looks at its clock's file: each look is 4 µs, and it asks often."""
_LIBRARY: Final = "faketime/libfaketimeMT.so.1"
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the kernel has it
_LIBRARY_FOLDERS: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib")


def faketime() -> Path | None:
    """The library; None: it is not installed."""
    for folder in map(Path, _LIBRARY_FOLDERS):
        for found in (folder / _LIBRARY, *sorted(folder.glob(f"*-linux-*/{_LIBRARY}"))):
            if found.exists():
                return found
    return None


def missing() -> str | None:
    """What is needed for clocks that jump; None: it is here."""
    return HOW_TO_GET_IT if faketime() is None else None


class FakeClock:
    """The wall clock of some processes, in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.off_s = 0
        """How far it is from the kernel's clock."""
        self.jump(0)

    async def reset(self) -> None:
        """Be the kernel's clock again, and wait until that is seen."""
        if self.off_s:
            self.jump(0)
            await asyncio.sleep(2 * SEEN_WITHIN_S)

    def jump(self, seconds: int) -> None:
        """Be so far from the kernel's clock from now on, within `SEEN_WITHIN_S`."""
        self.off_s = seconds
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)  # never half written

    @property
    def variables(self) -> dict[str, str]:
        """What makes a process go by it.

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
            # Its way round an old bug of glibc costs every hand-over between threads 20 ms.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }


def remove_shared_memory(pid: int) -> None:
    """Remove the shared memory that libfaketime leaves behind where its process was killed."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        (_SHARED_MEMORY / name).unlink(missing_ok=True)
