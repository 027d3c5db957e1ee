"""Who follows one owned session: a speaker's connection, or whoever watches."""

from __future__ import annotations

from typing import Protocol

from avatar_sessions.contract.messages import UtteranceReport
from liveavatar_lite import ErrorReported
from owner.utterance import Utterance


class Observer(Protocol):
    """A speaker's connection: hears what becomes of the session and its speech."""

    def on_pose_changed(self, previous: str | None, pose: str) -> None:
        """The avatar's pose changed."""

    def on_playback_started(self, utterance: Utterance) -> None:
        """The avatar has begun to say an utterance."""

    def on_progress(self, utterance: Utterance) -> None:
        """Speech went on to LiveAvatar."""

    def on_utterance_over(self, report: UtteranceReport) -> None:
        """An utterance is over."""

    def on_buffer_cleared(self, interrupt_id: str | None) -> None:
        """LiveAvatar has taken an interrupt."""

    def on_error(self, error: ErrorReported) -> None:
        """LiveAvatar objects."""

    def on_ready_changed(self, ready: bool) -> None:
        """Speech goes on to LiveAvatar, or waits for a socket."""

    def on_released(self, *, over: bool) -> None:
        """This process lets go: the session is over, or moves to another."""
