"""Credits: the cost of a session, and the balance."""

from __future__ import annotations

from decimal import Decimal

import pytest

from liveavatar_simulator.service.credits import CreditAccount, pro_rated


@pytest.mark.parametrize(
    ("elapsed_s", "cost"), [(0, "0.0"), (3, "0.1"), (60, "1.0"), (95, "1.6"), (600, "10.0")]
)
def test_a_session_costs_a_credit_per_minute_pro_rata(elapsed_s: float, cost: str) -> None:
    """Measured on LiveAvatar: 95 s cost 1.6 credits."""
    assert pro_rated(elapsed_s, 60) == Decimal(cost)


def test_the_balance_never_goes_below_zero() -> None:
    account = CreditAccount(Decimal("1.5"))

    assert account.charge(Decimal(1))
    assert not account.charge(Decimal(1))
    assert account.balance == 0
