"""Admission to the ingress: tickets, epochs, paths, origins, and the number of speakers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from avatar_sessions.contract.activities import Epoch
from owner.ingress.server import MAX_SPEAKERS, IngressServer, IngressSettings
from owner.ingress.tickets import Tickets
from owner.registry import SessionRegistry
from tests.support.owner_under_test import OwnerUnderTest

TTL_S = 60.0


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@contextlib.asynccontextmanager
async def ingress_of(
    owner: OwnerUnderTest, tickets: Tickets, **settings: object
) -> AsyncIterator[IngressServer]:
    owned = SessionRegistry()
    owned.add(owner.session)
    ingress = IngressServer(IngressSettings(**settings), owned, tickets)  # type: ignore[arg-type]
    async with ingress.listening():
        yield ingress


def ticket_of(tickets: Tickets, epoch: Epoch = (1, 1), key: str = "test") -> str:
    return tickets.issue(key, epoch)[0].get_secret_value()


def speaker(ingress: IngressServer, ticket: str, origin: str | None = None) -> connect:
    assert ingress.url is not None
    return connect(
        ingress.url,
        additional_headers={"Authorization": f"Bearer {ticket}"},
        origin=None if origin is None else Origin(origin),
        compression=None,
    )


async def status_of(attempt: connect) -> int:
    """The HTTP status of a connection attempt; 101 if it was admitted."""
    try:
        async with attempt:
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


async def test_a_ticket_opens_its_session_in_its_epoch_until_it_expires(
    owner: OwnerUnderTest,
) -> None:
    clock = Clock()
    tickets = Tickets(TTL_S, clock=clock)
    async with ingress_of(owner, tickets) as ingress:
        good = ticket_of(tickets)
        assert await status_of(speaker(ingress, good)) == 101
        assert await status_of(speaker(ingress, ticket_of(tickets, epoch=(1, 0)))) == 410
        assert await status_of(speaker(ingress, ticket_of(tickets, key="another"))) == 410
        assert await status_of(speaker(ingress, ticket_of(Tickets(TTL_S)))) == 401
        async with speaker(ingress, good) as connection:
            clock.now_s += TTL_S
            assert await status_of(speaker(ingress, good)) == 401
            await connection.ping()  # one that is open stays


async def test_a_ticket_in_the_path_is_valid_only_if_allowed(owner: OwnerUnderTest) -> None:
    tickets = Tickets(TTL_S)
    for allowed, status in ((False, 401), (True, 101)):
        async with ingress_of(owner, tickets, path_tickets=allowed) as ingress:
            assert await status_of(connect(f"{ingress.url}/{ticket_of(tickets)}")) == status
            assert await status_of(connect(f"{ingress.url}/nonsense")) == 401
            assert await status_of(connect(f"{ingress.url}s/{ticket_of(tickets)}")) == 404


async def test_a_web_page_is_admitted_by_its_origin_only(owner: OwnerUnderTest) -> None:
    tickets = Tickets(TTL_S)
    good = "https://app.example.org"
    async with ingress_of(owner, tickets, origins=(good,)) as ingress:
        ticket = ticket_of(tickets)
        assert await status_of(speaker(ingress, ticket, origin=good)) == 101
        assert await status_of(speaker(ingress, ticket, origin="https://example.com")) == 403


async def test_the_number_of_speakers_of_one_session_is_limited(owner: OwnerUnderTest) -> None:
    tickets = Tickets(TTL_S)
    async with (
        ingress_of(owner, tickets) as ingress,
        contextlib.AsyncExitStack() as connections,
    ):
        ticket = ticket_of(tickets)
        for _ in range(MAX_SPEAKERS):
            connection = await connections.enter_async_context(speaker(ingress, ticket))
            await greeted(connection)
        assert await status_of(speaker(ingress, ticket)) == 429


async def greeted(connection: ClientConnection) -> None:
    """Wait until the ingress serves the connection: it sends the first message."""
    await connection.recv()


async def test_speakers_are_sent_the_configured_address(owner: OwnerUnderTest) -> None:
    settings = {"url": "wss://owner-3.example"}
    async with ingress_of(owner, Tickets(TTL_S), **settings) as ingress:
        assert ingress.url == "wss://owner-3.example/live"
    assert ingress.url is None
