"""The account: credits of one space.

A minute is a credit; the sandbox is free. No session logic.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

_TENTH = Decimal("0.1")


def pro_rated(elapsed_s: float, period_s: float) -> Decimal:
    """What a session of this length costs. Measured: 95 s cost 1.6."""
    return (Decimal(str(elapsed_s)) / Decimal(str(period_s))).quantize(_TENTH, ROUND_HALF_UP)


class CreditAccount:
    """A balance that may run out, and never goes below zero."""

    def __init__(self, balance: Decimal) -> None:
        self.balance = balance

    def charge(self, amount: Decimal) -> bool:
        """Take ``amount``; whether anything is left for another period."""
        self.balance = max(Decimal(0), self.balance - amount)
        return self.balance > 0
