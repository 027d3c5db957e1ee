"""Ports on loopback: is one free, who holds it, give me another. Holds none itself."""

from __future__ import annotations

import contextlib
import errno
import shutil
import socket
import subprocess
from pathlib import Path

from deploy.local.errors import PortInUse

LOOPBACK = "127.0.0.1"
_LISTEN = "0A"  # state column of /proc/net/tcp


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port nobody uses at this moment. Somebody else may take it before you do."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(port: int, what: str, setting: str) -> None:
    """Make sure that `what` can listen on `port`.

    Raises:
        PortInUse: somebody listens there; the sentence names who (where that can be read) and
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
        # Processes of other users cannot be looked into, and any may end while we look.
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
