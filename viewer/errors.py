"""Errors of the viewer server; each text is one sentence that says what to do."""

from __future__ import annotations


class ViewerError(Exception):
    """Base class of this package's errors; the text is one sentence for the user."""

    @property
    def sentence(self) -> str:
        """The text to show."""
        return str(self)


class ViewerPortInUse(ViewerError):
    """Another program listens on the viewer's port."""
