"""What can go wrong with the viewer itself, each with a sentence that says what to do."""

from __future__ import annotations


class ViewerError(Exception):
    """The base class of this package's errors. Its text is one sentence for a person."""

    @property
    def sentence(self) -> str:
        """What to show."""
        return str(self)


class ViewerPortInUse(ViewerError):
    """Another program listens on the viewer's port."""
