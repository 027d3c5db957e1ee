"""What can go wrong in a chaos run itself, as opposed to in the sessions it tests."""

from __future__ import annotations

from deploy.local.errors import LocalError


class NotAvailable(Exception):
    """The simulator cannot make the fault or keeps no recording: the row says so and fails."""


class SimulatorLost(LocalError):
    """The simulator does not answer: its ledger is lost, so its environment cannot be used."""


class ConditionTimeout(Exception):
    """A condition was not met within its bound."""
