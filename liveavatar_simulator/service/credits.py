"""The account's credits: a minute costs one, the sandbox is free. Knows no sessions."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

_TENTH = Decimal("0.1")


def pro_rated(elapsed_s: float, period_s: float) -> Decimal:
    """The cost of a session of this length. Measured: 95 s cost 1.6 credits."""
    return (Decimal(str(elapsed_s)) / Decimal(str(period_s))).quantize(_TENTH, ROUND_HALF_UP)


class CreditAccount:
    """A balance that never goes below zero."""

    def __init__(self, balance: Decimal) -> None:
        self.balance = balance

    def charge(self, amount: Decimal) -> bool:
        """Deduct ``amount``; False if nothing is left for another period."""
        self.balance = max(Decimal(0), self.balance - amount)
        return self.balance > 0
