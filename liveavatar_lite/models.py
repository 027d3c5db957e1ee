"""The shapes of LiveAvatar's REST API as LITE mode uses it: what is sent, what comes back.

Models only; `rest` does the talking. Replies ignore fields they do not know, and enums that the
service extends parse what they have not met: a new end reason must not break a clean-up.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

WAYNE_AVATAR_ID: Final = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
"""The avatar of the sandbox; the only one it accepts for sessions."""
SANDBOX_MAX_DURATION_S: Final = 60
"""A sandbox session ends after about a minute; asking for more is refused."""


def _utc_unless_told(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_utc_unless_told)]
"""An aware datetime; the service's are taken for UTC where they name no zone."""


class OpenStrEnum(StrEnum):
    """A string enum that the service may extend: an unknown value becomes a member of its own."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value
        member._value_ = value
        return member


class VideoQuality(OpenStrEnum):
    """1080p, 720p, 480p, 360p; more pixels cost more latency."""

    VERY_HIGH = "very_high"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class VideoEncoding(OpenStrEnum):
    """Codec of the avatar's video track."""

    H264 = "H264"
    VP8 = "VP8"


class SessionEndReason(OpenStrEnum):
    """Why a session ended: told by the service, or given to ``stop_session``."""

    UNKNOWN = "UNKNOWN"
    USER_DISCONNECTED = "USER_DISCONNECTED"
    SERVER_ERROR = "SERVER_ERROR"
    IDLE_TIMEOUT = "IDLE_TIMEOUT"
    NO_CREDITS = "NO_CREDITS"
    USER_CLOSED = "USER_CLOSED"
    AVATAR_DELETED = "AVATAR_DELETED"
    MAX_DURATION_REACHED = "MAX_DURATION_REACHED"
    ZOMBIE_SESSION_REAP = "ZOMBIE_SESSION_REAP"
    AGENT_HANG_UP = "AGENT_HANG_UP"
    DISPATCH_FAILED = "DISPATCH_FAILED"


class StopOutcome(StrEnum):
    """Both mean that the session is not running any more."""

    STOPPED = "stopped"
    """The service took the stop (also for a session that had just ended)."""
    ALREADY_GONE = "already_gone"
    """The service knows no such session, or no longer."""


class _Sent(BaseModel):
    """What we send: misspelt fields are errors, which do not show the values."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class _Received(BaseModel):
    """What we receive: unknown fields are ignored, and no error shows the values."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class VideoSettings(_Sent):
    """How the avatar is filmed; the service's defaults are high and H264."""

    quality: VideoQuality = VideoQuality.HIGH
    encoding: VideoEncoding = VideoEncoding.H264


class LiveKitConfig(_Sent):
    """A room of one's own for the avatar to join. LiveAvatar's cloud must be able to reach it.

    Attributes:
        livekit_url: address of the LiveKit server, ``wss://...``.
        livekit_room: name of the room.
        livekit_client_token: the *avatar's* token, which you mint: roomJoin, room, canPublish, and
            better also canSubscribe and canPublishData. Its identity is what the avatar is called.
    """

    livekit_url: str
    livekit_room: str
    livekit_client_token: SecretStr


class TokenRequest(_Sent):
    """What to mint a session token for. The token carries all of it; starting takes no more.

    Attributes:
        avatar_id: a uuid.
        is_sandbox: free, about a minute, the avatar Wayne only.
        video_settings: None for the service's defaults.
        max_session_duration: seconds; None for the plan's maximum, more than which is refused.
        livekit_config: a room of one's own; None lets LiveAvatar make one.
    """

    mode: Literal["LITE"] = "LITE"
    avatar_id: str
    is_sandbox: bool = False
    video_settings: VideoSettings | None = None
    max_session_duration: int | None = Field(default=None, gt=0)
    livekit_config: LiveKitConfig | None = None


class MintedToken(_Received):
    """A session that exists by name, is not started and not billed."""

    session_id: str
    session_token: SecretStr


class StartedSession(_Received):
    """A session that runs and is billed.

    Attributes:
        livekit_url: where the room is; may be missing in a room of one's own, like both tokens.
        livekit_client_token: a viewer's; the one secret that may go to that viewer's browser.
        livekit_agent_token: a voice agent's.
        max_session_duration: the limit in force, seconds.
        ws_url: the media WebSocket. Possession is the credential: whoever has it can speak.
    """

    session_id: str
    livekit_url: str | None = None
    livekit_client_token: SecretStr | None = None
    livekit_agent_token: SecretStr | None = None
    max_session_duration: int | None = None
    ws_url: SecretStr | None = None


class SessionEntry(_Received):
    """A session in the service's books. Ended means: `end_at` or `end_reason` is there.

    Attributes:
        duration: seconds; sandbox sessions were seen with 0.
        credits_consumed: one a minute in LITE mode, pro rata.
    """

    id: str
    created_at: Moment
    updated_at: Moment | None = None
    duration: float = 0
    source: str | None = None
    mode: str | None = None
    is_sandbox: bool = False
    credits_consumed: float | None = None
    end_at: Moment | None = None
    end_reason: SessionEndReason | None = None

    @property
    def ended(self) -> bool:
        """There is no status field; this is how an ended session is recognised."""
        return self.end_at is not None or self.end_reason is not None


class SessionPage(_Received):
    """One page of sessions. `next` and `previous` are addresses, None at the ends."""

    count: int
    next: str | None = None
    previous: str | None = None
    results: tuple[SessionEntry, ...]
