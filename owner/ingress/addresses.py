"""The address at which speakers reach a server that listens on all interfaces. Sends nothing."""

from __future__ import annotations

import ipaddress
import logging
import socket
from typing import Final

logger = logging.getLogger(__name__)

_ELSEWHERE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses reserved for documentation (RFC 5737, RFC 3849): they choose the default route."""
_DISCARD_PORT: Final = 9


def reachable_host(host: str) -> str:
    """Return a host that speakers can connect to: ``host``, unless it is a wildcard.

    For a wildcard (``0.0.0.0``, ``::`` or empty) it is the address from which this host sends
    packets to other networks.

    Raises:
        OSError: it is a wildcard, and this host has no route to other networks.
    """
    if not is_wildcard(host):
        return host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((_ELSEWHERE[family], _DISCARD_PORT))  # UDP: chooses a route, sends nothing
        address: str = probe.getsockname()[0]
    logger.warning(
        "the ingress listens on all interfaces, and speakers are sent %s, the address that this"
        " host routes from: set AVATAR_SESSIONS_INGRESS_URL if they reach it at another",
        address,
    )
    return address


def is_wildcard(host: str) -> bool:
    """Whether a server on this host listens on all interfaces."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        return False
