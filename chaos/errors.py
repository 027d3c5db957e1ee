"""What can go wrong with the proof itself, as opposed to with what is proved."""

from __future__ import annotations


class NotAvailable(Exception):
    """The simulator cannot make a fault, or keeps no record: the row says so, and is not ok."""


class Never(Exception):
    """Something that was waited for did not happen within its bound."""
