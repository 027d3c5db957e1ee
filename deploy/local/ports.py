"""Ports on loopback: take a free one, require that one is free, name the process that listens.

`free_port` is the one allocator of the stack, the tests, the benchmarks and chaos. Its ports lie
below the range that the kernel uses for outgoing connections: a port from that range may become a
connection's local port while its server restarts. Processes that run side by side (test workers,
several checkouts) never get the same port: each locks whole blocks of the range, and the kernel
releases a lock when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

from deploy.local.errors import PortInUse

LOOPBACK: Final = "127.0.0.1"
FIRST: Final = 20_000
END: Final = 32_000
"""Linux connects from 32768 upwards, macOS from 49152."""
BLOCK: Final = 100
_LISTEN: Final = "0A"  # state column of /proc/net/tcp


class PortRange:
    """Gives out ports between `first` and `end`, each of them once until all have been used.

    `locks` is the folder of the lock files that processes share: one file a block of ports.
    """

    def __init__(self, first: int, end: int, locks: Path, block: int = BLOCK) -> None:
        self._blocks = [range(at, min(at + block, end)) for at in range(first, end, block)]
        self._locks = locks
        self._mine: list[range] = []
        self._files: list[TextIO] = []  # open files hold the locks
        self._ports = self._each_once()
        self._guard = threading.Lock()

    def close(self) -> None:
        """Let other processes have the ports."""
        for file in self._files:
            file.close()

    def take(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
        """The next port that no socket of `kind` is bound to.

        Raises:
            OSError: every port is in use.
        """
        with self._guard:
            for port in self._ports:
                if _is_free(port, kind):
                    return port
            # All were given out: begin again with those of this process.
            for port in (port for block in self._mine for port in block):
                if _is_free(port, kind):
                    return port
        raise OSError(errno.EADDRINUSE, "no free port is left below the kernel's range")

    def _each_once(self) -> Iterator[int]:
        # Processes begin at different blocks, so that a lock is rarely asked for twice.
        offset = os.getpid() % len(self._blocks)
        for block in self._blocks[offset:] + self._blocks[:offset]:
            if self._lock(block):
                yield from block

    def _lock(self, block: range) -> bool:
        self._locks.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (self._locks / f"{block.start}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._files.append(file)
        self._mine.append(block)
        return True


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


_range = PortRange(
    FIRST, END, Path(tempfile.gettempdir()) / f"liveavatar-sessions-ports-{os.getuid()}"
)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port on loopback that no socket is bound to, given out once.

    Raises:
        OSError: every port is in use.
    """
    return _range.take(kind)


def require_free(port: int, what: str, setting: str) -> None:
    """Make sure that `what` can listen on `port`.

    Raises:
        PortInUse: a process listens there; the sentence names it (where that can be read) and
            `setting`, the environment variable that chooses another port.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
    holder = port_holder(port)
    by = f" by {holder}" if holder else ""
    other = port + 10_000 if port < 50_000 else port - 10_000
    raise PortInUse(
        f"port {port}, which {what} needs, is in use{by}: "
        f"end that program, or choose another port, for example {setting}={other}."
    )


def port_holder(port: int) -> str | None:
    """Name and process id of the listener on a TCP port, or None where that cannot be read."""
    return _holder_from_proc(port) if Path("/proc/net/tcp").exists() else _holder_from_lsof(port)


def _holder_from_proc(port: int) -> str | None:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            rows = (row.split() for row in Path(table).read_text().splitlines()[1:])
            inodes.update(
                row[9]
                for row in rows
                if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port
            )
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        # Processes of other users cannot be inspected, and any process may end meanwhile.
        with contextlib.suppress(OSError):
            if any(str(fd.readlink()) in links for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return None


def _holder_from_lsof(port: int) -> str | None:
    lsof = shutil.which("lsof")
    if lsof is None:
        return None
    try:
        listing = subprocess.run(
            [lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired:
        return None
    fields = {line[0]: line[1:] for line in listing.splitlines() if line}
    return f"{fields['c']} (process {fields['p']})" if {"p", "c"} <= fields.keys() else None
