"""Ports for servers that die and come back: below those that the kernel gives to connections.

A port that the kernel has chosen may be some connection's while its server is dead.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from deploy.local.ports import LOOPBACK

FIRST: Final = 20_000
END: Final = 32_000
_OF_A_RUN: Final = 600

_next = FIRST + os.getpid() * _OF_A_RUN % (END - FIRST)


def own_port() -> int:
    """A port of loopback that nobody listens on, and that is given out once.

    Raises:
        OSError: all of them are taken.
    """
    global _next
    for _ in range(END - FIRST):
        port = _next
        _next = FIRST + (port + 1 - FIRST) % (END - FIRST)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port
    raise OSError(f"every port from {FIRST} to {END} is taken")
