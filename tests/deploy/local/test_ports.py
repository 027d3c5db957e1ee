"""Free ports are given out once; a port in use is refused with its holder and another choice."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.errors import PortInUse
from deploy.local.ports import END, FIRST, LOOPBACK, PortRange, free_port, port_holder, require_free
from deploy.local.settings import ROOT


def test_a_free_port_passes() -> None:
    require_free(free_port(), "Temporal", "TEMPORAL_PORT")


def test_a_port_in_use_is_refused_with_its_holder_and_the_setting_that_changes_it() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]

        with pytest.raises(PortInUse) as caught:
            require_free(port, "Temporal", "TEMPORAL_PORT")

    sentence = str(caught.value)
    assert sentence.startswith(f"port {port}, which Temporal needs, is in use by ")
    assert f"(process {os.getpid()})" in sentence
    assert "TEMPORAL_PORT=" in sentence


def test_a_port_whose_server_has_just_ended_is_free() -> None:
    """Connections of a first `make demo` that linger in TIME_WAIT must not stop the second."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)):
            accepted, _ = server.accept()
            accepted.close()

    require_free(port, "the viewer", "VIEWER_PORT")


def test_a_free_port_has_no_holder() -> None:
    assert port_holder(free_port()) is None


def test_free_ports_lie_below_the_range_of_outgoing_connections() -> None:
    """A port that the kernel had chosen became a connection's while its server restarted."""
    assert FIRST <= free_port() < END


def test_each_port_is_given_out_once_until_all_were(tmp_path: Path) -> None:
    with contextlib.closing(PortRange(19_000, 19_020, tmp_path, block=5)) as ports:
        taken: list[int] = []
        while (port := ports.take()) not in taken:
            taken.append(port)

    assert len(taken) > 10, "unless half of these ports are in use"


def test_a_port_with_a_listener_is_passed_over(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port: int = server.getsockname()[1]
        ports = PortRange(port, port + 1, tmp_path)
        with contextlib.closing(ports), pytest.raises(OSError, match="no free port"):
            ports.take()


def test_two_processes_never_get_the_same_port(tmp_path: Path) -> None:
    """Test workers side by side asked the kernel for a port at the same moment, got the same one,
    and the second server did not start."""
    program = (
        "import pathlib, sys\n"
        "from deploy.local.ports import PortRange\n"
        f"ports = PortRange(19_100, 19_140, pathlib.Path({str(tmp_path)!r}), block=10)\n"
        "print([ports.take() for _ in range(10)], flush=True)\n"
        "sys.stdin.read()\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        taken: list[int] = []
        for child in children:
            assert child.stdout is not None
            taken += [int(port) for port in child.stdout.readline().strip("[]\n ").split(",")]
    finally:
        for child in children:
            child.communicate(timeout=20)

    assert len(taken) == len(set(taken)) == 20
