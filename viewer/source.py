"""What the viewer needs from its surroundings: access, status, and a speaker for typed text.

No HTTP, no Temporal. `session_source` implements `ViewerSource` with `avatar_sessions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from pydantic import SecretStr

from avatar_sessions.contract.states import EndReason, Pose, SessionState

REASONS: Final[dict[EndReason, str]] = {
    EndReason.REQUESTED: "The conversation was ended on request.",
    EndReason.CANCELLED: "The session was cancelled.",
    EndReason.MAX_DURATION: "The session reached its maximum duration.",
    EndReason.IDLE_TIMEOUT: "The session ended because the avatar was idle for too long.",
    EndReason.PROVIDER_ENDED: "LiveAvatar ended the session.",
    EndReason.INVALID_REQUEST: "LiveAvatar rejected the session request.",
    EndReason.START_FAILED: "The avatar could not be started.",
    EndReason.START_TIMEOUT: "The avatar did not start in time.",
    EndReason.CONNECTION_FAILED: "The connection to the avatar was lost and could not be restored.",
    EndReason.HISTORY_FULL: "The session reached its maximum number of commands.",
    EndReason.INTERNAL_ERROR: "Something went wrong on our side.",
}
"""Why a session ended, as the page says it."""


@dataclass(frozen=True)
class ViewerAccess:
    """What a browser needs to join the room."""

    livekit_url: str
    token: SecretStr
    generation: int | None = None
    """The generation (LiveAvatar session) that the room belongs to. When the session moves to a
    later one, the page requests new access. None: the room does not change."""


@dataclass(frozen=True)
class ViewerStatus:
    """A session's state, as far as a viewer needs it."""

    state: SessionState
    speaking: bool = False
    """An utterance is playing. The page uses it only while it cannot measure the audio itself."""
    pose: Pose | None = None
    """The avatar's pose between utterances; None: not known."""
    generation: int = 0
    """The current generation (LiveAvatar session), counted from 1; 0: not known."""
    live_at: datetime | None = None
    end_reason: EndReason | None = None
    detail: str | None = None
    """The failure as a sentence for the viewer; never holds a secret."""

    def public(self) -> dict[str, Any]:
        """The status as JSON for the page, with the end reason as a sentence."""
        return {
            "state": self.state,
            "speaking": self.speaking,
            "pose": self.pose,
            "generation": self.generation,
            "live_at": None if self.live_at is None else self.live_at.isoformat(),
            "end_reason": self.end_reason,
            "reason": None if self.end_reason is None else REASONS[self.end_reason],
            "detail": self.detail,
        }


class ViewerSourceError(Exception):
    """The source cannot answer now. The text is one sentence for the viewer."""


class ViewerSource(Protocol):
    """Provides access and status. The server bounds both calls with a timeout."""

    async def access(self, session_key: str) -> ViewerAccess:
        """Access for one viewer to the session's current room.

        Called only while the session is LIVE, and again whenever a page has lost its room.

        Raises:
            ViewerSourceError: not available now; the page shows the text and tries again.
        """
        ...

    async def status(self, session_key: str) -> ViewerStatus:
        """The session's current state.

        Raises:
            ViewerSourceError: not available now; the page shows the text and tries again.
        """
        ...


class ViewerSpeaker(Protocol):
    """Has a session's avatar speak the text that a viewer typed."""

    async def say(self, session_key: str, text: str) -> None:
        """Speak the text; returns when playback has completed or was interrupted.

        The server bounds the call with a timeout.

        Raises:
            ViewerSourceError: not possible now; the page shows the text.
        """
        ...
