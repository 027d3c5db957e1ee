"""A clip's encoded bytes on disk, which may still be arriving while others read them.

One side writes, the other reads at any place and waits for what has not come. Knows nothing of
audio or of networks.
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
    """How much of the bytes can be had."""

    ARRIVING = enum.auto()
    """More will come: who asks for bytes that are not there waits."""
    COMPLETE = enum.auto()
    """All are there."""
    FAILED = enum.auto()
    """What came can be read; the rest never comes, and ``failure`` says why."""
    CLOSED = enum.auto()
    """Nothing can be read any more, and nobody waits."""


class Spool:
    """Bytes in a file, some perhaps still to come. Safe to use from several threads.

    Attributes:
        promised_bytes: how many there will be in all, as the sender says; None: it does not say.
        failure: why the rest never comes; set in state FAILED.
    """

    def __init__(
        self, file: IO[bytes], state: SpoolState, arrived_bytes: int, promised_bytes: int | None
    ) -> None:
        self.promised_bytes = promised_bytes
        self.failure: ClipError | None = None
        self._file = file
        self._state = state
        self._arrived_bytes = arrived_bytes
        # Guards the state and the file: a closed file's number may soon be another file's.
        self._changed = threading.Condition()

    @classmethod
    def of_file(cls, path: Path) -> Spool:
        """A file that is there already.

        Raises:
            OSError: it cannot be read.
        """
        file = path.open("rb", buffering=0)
        size = os.fstat(file.fileno()).st_size
        return cls(file, SpoolState.COMPLETE, size, size)

    @classmethod
    def arriving(cls, promised_bytes: int | None) -> Spool:
        """An empty one on disk that vanishes when it is closed, or when this process dies.

        Raises:
            OSError: there is no place for temporary files.
        """
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - `close` does
        return cls(file, SpoolState.ARRIVING, 0, promised_bytes)

    @property
    def arrived_bytes(self) -> int:
        """How many bytes can be read without waiting."""
        with self._changed:
            return self._arrived_bytes

    def write(self, piece: bytes) -> int:
        """Add bytes at the end; returns how many there are then. Ignored once it is closed.

        Raises:
            OSError: the disk does not take them.
        """
        with self._changed:
            if self._state is SpoolState.ARRIVING:
                self._file.write(piece)
                self._arrived_bytes += len(piece)
                self._changed.notify_all()
            return self._arrived_bytes

    def complete(self) -> None:
        """No more will come: these are all."""
        self._leave_arriving(SpoolState.COMPLETE)

    def fail(self, failure: ClipError) -> None:
        """No more will come, though there should. Without effect once it is settled."""
        self._leave_arriving(SpoolState.FAILED, failure)

    def close(self) -> None:
        """Give the file back and send off whoever waits. May be called twice."""
        with self._changed:
            self._state = SpoolState.CLOSED
            self._file.close()
            self._changed.notify_all()

    def wait_for(self, arrived_bytes: int | None) -> None:
        """Block until so many bytes are there (None: all), or no more will come.

        The sender's time limit bounds it: each spool is completed, failed or closed in the end.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._state is not SpoolState.ARRIVING
                    or (arrived_bytes is not None and self._arrived_bytes >= arrived_bytes)
                )
            )

    def lacks(self, position: int, size: int) -> bool:
        """Whether some of these bytes are not there, and may still come."""
        with self._changed:
            return self._state is SpoolState.ARRIVING and self._arrived_bytes < position + size

    def read_at(self, position: int, size: int) -> bytes:
        """Return what is there of these bytes, without waiting."""
        with self._changed:
            if self._state is SpoolState.CLOSED:
                return b""
            return os.pread(self._file.fileno(), size, position)

    def _leave_arriving(self, state: SpoolState, failure: ClipError | None = None) -> None:
        with self._changed:
            if self._state is SpoolState.ARRIVING:
                self._state, self.failure = state, failure
                self._changed.notify_all()
