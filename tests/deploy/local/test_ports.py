"""A port in use is told in one sentence: which, by whom, and what to set instead."""

from __future__ import annotations

import os
import socket

import pytest

from deploy.local.errors import PortInUse
from deploy.local.ports import LOOPBACK, free_port, port_holder, require_free


def test_a_free_port_passes() -> None:
    require_free(free_port(), "Temporal", "TEMPORAL_PORT")


def test_a_used_port_is_told_with_its_holder_and_the_setting_that_changes_it() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]

        with pytest.raises(PortInUse) as caught:
            require_free(port, "Temporal", "TEMPORAL_PORT")

    sentence = str(caught.value)
    assert sentence.startswith(f"port {port}, which Temporal needs, is in use by ")
    assert f"(process {os.getpid()})" in sentence
    assert "TEMPORAL_PORT=" in sentence


def test_a_port_just_left_by_a_server_is_free_at_once() -> None:
    """Connections of a first `make demo` that linger in TIME_WAIT must not stop the second."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)):
            accepted, _ = server.accept()
            accepted.close()

    require_free(port, "the viewer", "VIEWER_PORT")


def test_nobody_holds_a_free_port() -> None:
    assert port_holder(free_port()) is None
