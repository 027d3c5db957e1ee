"""The address that speakers are sent when the ingress listens on all interfaces."""

from __future__ import annotations

import ipaddress
import logging
import socket

import pytest

from owner.ingress import server
from owner.ingress.addresses import is_wildcard, reachable_host
from owner.ingress.server import IngressServer, IngressSettings
from owner.ingress.tickets import Tickets
from owner.registry import SessionRegistry


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "owner-3.example", "::1"])
def test_an_address_of_its_own_stays(host: str) -> None:
    assert reachable_host(host) == host


@pytest.mark.parametrize("host", ["0.0.0.0", ""])
def test_a_wildcard_becomes_the_address_that_this_host_routes_from(
    host: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AVATAR_SESSIONS_INGRESS_HOST=0.0.0.0, speakers were sent to ws://0.0.0.0."""
    monkeypatch.setattr(socket, "socket", RoutedSocket)

    with caplog.at_level(logging.WARNING):
        address = reachable_host(host)

    assert ipaddress.ip_address(address) == ipaddress.ip_address("10.9.8.7")
    assert "AVATAR_SESSIONS_INGRESS_URL" in caplog.text


def test_a_host_without_a_route_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", UnroutedSocket)

    with pytest.raises(OSError, match="unreachable"):
        reachable_host("::")


async def test_an_ingress_without_a_route_listens_and_sends_no_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker on a host without a default route did not start, although clips need no ingress."""

    def no_route(_: str) -> str:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(server, "reachable_host", no_route)
    ingress = IngressServer(IngressSettings(host="0.0.0.0"), SessionRegistry(), Tickets(60))

    async with ingress.listening():
        assert ingress.url is None
    assert "set AVATAR_SESSIONS_INGRESS_URL" in caplog.text


@pytest.mark.parametrize(
    ("host", "wildcard"), [("0.0.0.0", True), ("::", True), ("", True), ("localhost", False)]
)
def test_wildcards_are_recognised(host: str, wildcard: bool) -> None:
    assert is_wildcard(host) is wildcard


class RoutedSocket:
    """A UDP socket of a host whose default route leaves from 10.9.8.7."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> RoutedSocket:
        return self

    def __exit__(self, *_: object) -> None: ...

    def connect(self, address: tuple[str, int]) -> None:
        assert not is_wildcard(address[0])

    def getsockname(self) -> tuple[str, int]:
        return ("10.9.8.7", 40_000)


class UnroutedSocket(RoutedSocket):
    """A socket of a host without a network."""

    def connect(self, address: tuple[str, int]) -> None:
        raise OSError(101, "Network is unreachable")
