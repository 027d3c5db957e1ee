"""A clip's encoded bytes on disk, which may be read while they still arrive.

One side writes; the other reads at any position and waits for bytes that have not arrived. Knows
nothing of audio or of networks.
"""

from __future__ import annotations

import enum
import os
import tempfile
import threading
from pathlib import Path
from typing import IO

from owner.clips.errors import ClipError


class SpoolState(enum.Enum):
    """Which bytes can be read."""

    ARRIVING = enum.auto()
    """More will arrive: a reader waits for bytes that are not there."""
    COMPLETE = enum.auto()
    """All are there."""
    FAILED = enum.auto()
    """What arrived can be read; the rest never arrives, and ``failure`` says why."""
    CLOSED = enum.auto()
    """Nothing can be read any more, and no reader waits."""


class Spool:
    """Bytes in a file, some perhaps still to arrive. Safe to use from several threads.

    Attributes:
        promised_bytes: how many there will be in all, as the sender states; None: it does not.
        failure: why the rest never arrives; set in state FAILED.
    """

    def __init__(
        self, file: IO[bytes], state: SpoolState, arrived_bytes: int, promised_bytes: int | None
    ) -> None:
        self.promised_bytes = promised_bytes
        self.failure: ClipError | None = None
        self._file = file
        self._state = state
        self._arrived_bytes = arrived_bytes
        # Guards the state and the file: a closed file's descriptor may be reused by another file.
        self._changed = threading.Condition()

    @classmethod
    def of_file(cls, path: Path) -> Spool:
        """A spool over a complete file.

        Raises:
            OSError: the file cannot be read.
        """
        file = path.open("rb", buffering=0)
        size = os.fstat(file.fileno()).st_size
        return cls(file, SpoolState.COMPLETE, size, size)

    @classmethod
    def arriving(cls, promised_bytes: int | None) -> Spool:
        """An empty spool in a temporary file, which vanishes with `close` or with this process.

        Raises:
            OSError: no temporary file can be created.
        """
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - `close` does
        return cls(file, SpoolState.ARRIVING, 0, promised_bytes)

    @property
    def arrived_bytes(self) -> int:
        """How many bytes can be read without waiting."""
        with self._changed:
            return self._arrived_bytes

    def write(self, piece: bytes) -> int:
        """Add bytes at the end; returns how many there are then. Ignored after `close`.

        Raises:
            OSError: the disk refuses them.
        """
        with self._changed:
            if self._state is SpoolState.ARRIVING:
                self._file.write(piece)
                self._arrived_bytes += len(piece)
                self._changed.notify_all()
            return self._arrived_bytes

    def complete(self) -> None:
        """No more will arrive: these are all."""
        self._leave_arriving(SpoolState.COMPLETE)

    def fail(self, failure: ClipError) -> None:
        """The rest will not arrive. Without effect once complete, failed or closed."""
        self._leave_arriving(SpoolState.FAILED, failure)

    def close(self) -> None:
        """Close the file and wake every waiting reader. May be called twice."""
        with self._changed:
            self._state = SpoolState.CLOSED
            self._file.close()
            self._changed.notify_all()

    def wait_for(self, arrived_bytes: int | None) -> None:
        """Block until so many bytes are there (None: all), or no more will arrive.

        Bounded by the sender's time limit: each spool is completed, failed or closed in the end.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._state is not SpoolState.ARRIVING
                    or (arrived_bytes is not None and self._arrived_bytes >= arrived_bytes)
                )
            )

    def lacks(self, position: int, size: int) -> bool:
        """Whether some of these bytes are not there, and may still arrive."""
        with self._changed:
            return self._state is SpoolState.ARRIVING and self._arrived_bytes < position + size

    def read_at(self, position: int, size: int) -> bytes:
        """Return what has arrived of these bytes, without waiting."""
        with self._changed:
            if self._state is SpoolState.CLOSED:
                return b""
            return os.pread(self._file.fileno(), size, position)

    def _leave_arriving(self, state: SpoolState, failure: ClipError | None = None) -> None:
        with self._changed:
            if self._state is SpoolState.ARRIVING:
                self._state, self.failure = state, failure
                self._changed.notify_all()
