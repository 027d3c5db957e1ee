"""Tickets: only the process that issued one accepts it, unchanged and in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from owner.ingress.tickets import Ticket, TicketRefused, Tickets

TTL_S = 60.0


def tickets_at(clock: Callable[[], float]) -> Tickets:
    return Tickets(TTL_S, clock=clock)


def test_a_ticket_names_its_session_and_epoch_until_it_expires() -> None:
    now_s = [1_000_000.0]
    tickets = tickets_at(lambda: now_s[0])
    ticket, expires_at = tickets.issue("key", (2, 3))
    assert timedelta(0) < expires_at - datetime.now(UTC) <= timedelta(seconds=TTL_S)
    assert tickets.check(ticket.get_secret_value()) == Ticket("key", (2, 3))
    now_s[0] += TTL_S
    with pytest.raises(TicketRefused, match="expired"):
        tickets.check(ticket.get_secret_value())


@pytest.mark.parametrize("text", ["", "x", "é", "AAAA" * 40, "a" * 10_000])
def test_text_that_is_no_ticket_is_refused_with_advice(text: str) -> None:
    with pytest.raises(TicketRefused, match="attach again"):
        Tickets(TTL_S).check(text)


def test_another_processes_ticket_is_refused() -> None:
    ticket, _ = Tickets(TTL_S).issue("key", (1, 1))
    with pytest.raises(TicketRefused, match="not issued here"):
        Tickets(TTL_S).check(ticket.get_secret_value())


def test_a_changed_ticket_is_refused() -> None:
    tickets = Tickets(TTL_S)
    good = tickets.issue("key", (1, 1))[0].get_secret_value()
    for at in range(len(good) - 1):  # the last character has bits that do not count
        changed = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        with pytest.raises(TicketRefused):
            tickets.check(changed)


def test_tickets_outlive_a_jump_of_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner's clock jumped forward by an hour: the ticket that its workflow still handed out was
    refused as expired, and the speaker gave up after 75 s."""
    tickets = Tickets(TTL_S)
    ticket, _ = tickets.issue("key", (1, 1))
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 3600)
    assert tickets.check(ticket.get_secret_value()).session_key == "key"
