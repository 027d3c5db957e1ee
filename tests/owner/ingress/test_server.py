"""Who is let in: tickets, epochs, paths, origins, and how many."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from avatar_sessions.contract.activities import Epoch
from liveavatar_simulator import LiveAvatarSimulator
from owner.ingress.server import MAX_SPEAKERS, IngressServer, IngressSettings
from owner.ingress.tickets import TicketRefused, Tickets
from owner.registry import SessionRegistry
from tests.owner.conftest import OwnerUnderTest, owner_of, simulator_settings

TTL_S = 60.0


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest_asyncio.fixture
async def owner() -> AsyncIterator[OwnerUnderTest]:
    async with LiveAvatarSimulator(simulator_settings()) as simulator, owner_of(simulator) as owner:
        yield owner


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
    """How a connection was answered; 101 if it was let in."""
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


async def test_a_ticket_in_the_path_opens_only_where_that_is_allowed(owner: OwnerUnderTest) -> None:
    tickets = Tickets(TTL_S)
    for allowed, status in ((False, 401), (True, 101)):
        async with ingress_of(owner, tickets, path_tickets=allowed) as ingress:
            assert await status_of(connect(f"{ingress.url}/{ticket_of(tickets)}")) == status
            assert await status_of(connect(f"{ingress.url}/nonsense")) == 401
            assert await status_of(connect(f"{ingress.url}s/{ticket_of(tickets)}")) == 404


async def test_a_page_is_let_in_by_its_origin_only(owner: OwnerUnderTest) -> None:
    tickets = Tickets(TTL_S)
    good = "https://app.example.org"
    async with ingress_of(owner, tickets, origins=(good,)) as ingress:
        ticket = ticket_of(tickets)
        assert await status_of(speaker(ingress, ticket, origin=good)) == 101
        assert await status_of(speaker(ingress, ticket, origin="https://example.com")) == 403


async def test_so_many_may_speak_in_one_session_and_no_more(owner: OwnerUnderTest) -> None:
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
    """Wait until the ingress has the connection: it says so first."""
    await connection.recv()


async def test_speakers_are_told_the_address_they_are_to_use(owner: OwnerUnderTest) -> None:
    settings = {"url": "wss://owner-3.example"}
    async with ingress_of(owner, Tickets(TTL_S), **settings) as ingress:
        assert ingress.url == "wss://owner-3.example/live"
    assert ingress.url is None


@pytest.mark.parametrize("change", ["", "x", "é", "AAAA" * 40, "a" * 10_000])
def test_what_is_no_ticket_is_refused_in_words(change: str) -> None:
    with pytest.raises(TicketRefused, match="attach again"):
        Tickets(TTL_S).check(change)


def test_a_changed_ticket_is_refused() -> None:
    tickets = Tickets(TTL_S)
    good = ticket_of(tickets)
    assert tickets.check(good).session_key == "test"
    for place in range(len(good) - 1):  # the last character has bits that do not count
        changed = good[:place] + ("A" if good[place] != "A" else "B") + good[place + 1 :]
        with pytest.raises(TicketRefused):
            tickets.check(changed)
