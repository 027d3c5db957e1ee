"""Who follows one owned session: a speaker's connection, or whoever watches."""

from __future__ import annotations

from typing import Protocol

from avatar_sessions.contract.messages import UtteranceReport
from liveavatar_lite import ErrorReported
from owner.utterance import Utterance


class Observer(Protocol):
    """A speaker's connection: hears what becomes of the session and its speech."""

    def posed(self, previous: str | None, pose: str) -> None:
        """The avatar's pose changed."""

    def began(self, utterance: Utterance) -> None:
        """The avatar has begun to say an utterance."""

    def progressed(self, utterance: Utterance) -> None:
        """Speech went on to LiveAvatar."""

    def over(self, line: UtteranceReport) -> None:
        """An utterance is over."""

    def cleared(self, interrupt_id: str | None) -> None:
        """LiveAvatar has taken an interrupt."""

    def reported(self, error: ErrorReported) -> None:
        """LiveAvatar objects."""

    def usable(self, ready: bool) -> None:
        """Speech goes on to LiveAvatar, or waits for a socket."""

    def gone(self, *, over: bool) -> None:
        """This process lets go: the session is over, or moves to another."""
