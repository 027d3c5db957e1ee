"""The interfaces around one owned session: who follows it, who supervises it, what queues need.

Protocols only, so that the parts of a session and its surroundings do not import each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import Pose
from liveavatar_lite import ErrorReported
from owner.utterance_chunks import Utterance


@dataclass(frozen=True)
class ProviderEnd:
    """LiveAvatar's REST API says that the session has ended."""

    reason: str | None


class Observer(Protocol):
    """Follows one owned session: a speaker's connection, or a measurement."""

    def on_pose_changed(self, previous: str | None, pose: str) -> None:
        """The avatar's pose changed."""

    def on_playback_started(self, utterance: Utterance) -> None:
        """The avatar has begun to speak an utterance."""

    def on_progress(self, utterance: Utterance) -> None:
        """A chunk of an utterance was sent to LiveAvatar."""

    def on_utterance_over(self, report: UtteranceReport) -> None:
        """A live utterance is over."""

    def on_buffer_cleared(self, interrupt_id: str | None) -> None:
        """LiveAvatar has answered an interrupt."""

    def on_error(self, error: ErrorReported) -> None:
        """LiveAvatar reported an error."""

    def on_ready_changed(self, ready: bool) -> None:
        """The session's socket was connected or lost; without one, speech waits."""

    def on_released(self, *, over: bool) -> None:
        """This process releases the session, which is over or goes on at another owner."""


class SessionSupervisor(Protocol):
    """Receives an owned session's reports, and decides whether it may reconnect."""

    def on_ready(self, gap_ms: int) -> None:
        """A socket is connected; the session was without one for so long (0: the first socket)."""

    def on_disconnected(self) -> None:
        """The socket is lost, and the session reconnects."""

    def on_report(self, report: UtteranceReport, *, may_continue: bool) -> None:
        """A live utterance is over here; perhaps it continues at the next owner."""

    def on_pose_requested(self, pose: Pose) -> None:
        """A speaker requested a pose in band."""

    async def provider_end(self) -> ProviderEnd | None:
        """Ask LiveAvatar whether the session has ended; None also if it cannot be known now."""

    async def may_reconnect(self) -> bool:
        """Whether this process still owns the session; asked after a socket was lost."""


class SpeechSession(Protocol):
    """What the queues of clips and live speech need of their session."""

    @property
    def generation(self) -> int:
        """The number of the LiveAvatar session that speaks."""

    @property
    def handing_over(self) -> bool:
        """Whether the session is closed here to go on at another owner."""

    def report_of(self, utterance: Utterance) -> UtteranceReport:
        """The report of an utterance that is over."""

    def on_live_over(self, report: UtteranceReport) -> None:
        """A live utterance is over."""

    async def after_speech(self) -> None:
        """Take the pose that was requested while the avatar spoke."""
