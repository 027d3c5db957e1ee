"""What can go wrong with the proof itself, as opposed to with what is proved."""

from __future__ import annotations

from deploy.local.errors import LocalError


class NotAvailable(Exception):
    """The simulator cannot make a fault, or keeps no record: the row says so, and is not ok."""


class SimulatorLost(LocalError):
    """The simulator does not answer: what it knew is lost, and so is its world."""


class ConditionTimeout(Exception):
    """Something that was waited for did not happen within its bound."""
