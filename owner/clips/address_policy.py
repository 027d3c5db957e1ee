"""Where clips may come from: which folder, and which addresses, checked before any connection.

A host is resolved once, here; the connection goes to the address that was checked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

import httpx

from owner.clips.errors import ClipForbidden, ClipUnreachable


@dataclass(frozen=True)
class ClipPolicy:
    """Where clips may come from."""

    folder: Path | None = None
    """Files are read from here and nowhere else; None: no files."""
    allow_private_addresses: bool = False
    """Also loopback, link-local and private ranges: for tests and the local demo."""


async def checked_ip(url: httpx.URL, policy: ClipPolicy) -> str:
    """Resolve a clip's host to the one IP address to connect to.

    Raises:
        ClipForbidden: the URL has no host, or the policy does not allow one of its addresses.
        ClipUnreachable: there is no such host.
    """
    if not url.host:
        raise ClipForbidden("the clip's address has no host")
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            url.host, port, type=socket.SOCK_STREAM
        )
    except (socket.gaierror, UnicodeError):
        raise ClipUnreachable(f"there is no host named {url.host}") from None
    ips = [str(item[4][0]) for item in found]
    if not policy.allow_private_addresses and not all(_is_public(ip) for ip in ips):
        raise ClipForbidden(
            f"{url.host} is a loopback, link-local or private address:"
            " set AVATAR_SESSIONS_CLIP_ALLOW_PRIVATE_ADDRESSES=true to allow it"
        )
    return ips[0]


def _is_public(ip: str) -> bool:
    address = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None and not inner.is_global:
            return False
    return address.is_global and not address.is_multicast
