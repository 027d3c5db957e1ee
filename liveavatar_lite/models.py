"""Models of LiveAvatar's REST API, as LITE mode uses it.

Models only; `rest` sends the requests. Replies ignore unknown fields, and enums accept unknown
values: a new end reason must not break cleanup.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

WAYNE_AVATAR_ID: Final = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
"""Wayne, the only avatar that the sandbox accepts."""
SANDBOX_MAX_DURATION_S: Final = 60
"""A sandbox session ends after about a minute; a longer maximum is refused."""


def _utc_by_default(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_utc_by_default)]
"""An aware datetime; without a zone it is taken as UTC."""


class OpenStrEnum(StrEnum):
    """A string enum that the service may extend: an unknown value becomes a new member."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value
        member._value_ = value
        return member


class VideoQuality(OpenStrEnum):
    """1080p, 720p, 480p, 360p; a higher one has more latency."""

    VERY_HIGH = "very_high"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class VideoEncoding(OpenStrEnum):
    """Codec of the avatar's video track."""

    H264 = "H264"
    VP8 = "VP8"


class SessionEndReason(OpenStrEnum):
    """Why a session ended: reported by the service, or passed to ``stop_session``."""

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
    """The outcome of a stop; either way the session is not running."""

    STOPPED = "stopped"
    """The service accepted the stop (also for a session that had just ended)."""
    ALREADY_GONE = "already_gone"
    """The service does not know the session, or no longer."""


class _Sent(BaseModel):
    """Base of requests: misspelt fields are errors, which do not show the values."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class _Received(BaseModel):
    """Base of replies: unknown fields are ignored, and errors do not show the values."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class VideoSettings(_Sent):
    """Quality and codec of the avatar's video; the service's defaults are high and H264."""

    quality: VideoQuality = VideoQuality.HIGH
    encoding: VideoEncoding = VideoEncoding.H264


class LiveKitConfig(_Sent):
    """A room on your own LiveKit, which LiveAvatar's cloud must be able to reach.

    Attributes:
        livekit_url: address of the LiveKit server, ``wss://...``.
        livekit_room: name of the room.
        livekit_client_token: the *avatar's* token, which you mint: roomJoin, room, canPublish, and
            preferably canSubscribe and canPublishData. Its identity becomes the avatar's.
    """

    livekit_url: str
    livekit_room: str
    livekit_client_token: SecretStr


class TokenRequest(_Sent):
    """The configuration of a session, fixed when its token is minted.

    Attributes:
        avatar_id: a UUID.
        is_sandbox: free, about a minute, the avatar Wayne only.
        video_settings: None for the service's defaults.
        max_session_duration: seconds, at most the plan's maximum; None: the plan's maximum.
        livekit_config: a room on your own LiveKit; None: LiveAvatar hosts one.
    """

    mode: Literal["LITE"] = "LITE"
    avatar_id: str
    is_sandbox: bool = False
    video_settings: VideoSettings | None = None
    max_session_duration: int | None = Field(default=None, gt=0)
    livekit_config: LiveKitConfig | None = None


class MintedToken(_Received):
    """A session that was minted, not started, and is not billed."""

    session_id: str
    session_token: SecretStr


class StartedSession(_Received):
    """A session that runs and is billed.

    Attributes:
        livekit_url: the room's LiveKit server. It and both tokens may be missing for your own room.
        livekit_client_token: a viewer's token; the only secret for that viewer's browser.
        livekit_agent_token: a voice agent's token.
        max_session_duration: the limit in force, seconds.
        ws_url: the media WebSocket. It is a credential: a client that has it can speak.
    """

    session_id: str
    livekit_url: str | None = None
    livekit_client_token: SecretStr | None = None
    livekit_agent_token: SecretStr | None = None
    max_session_duration: int | None = None
    ws_url: SecretStr | None = None


class SessionEntry(_Received):
    """A session's entry in the service's list. An ended one has `end_at` or `end_reason`.

    Attributes:
        duration: seconds; observed 0 for sandbox sessions.
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
        """Whether the session has ended; there is no status field."""
        return self.end_at is not None or self.end_reason is not None


class SessionPage(_Received):
    """One page of sessions. `next` and `previous` are URLs, None at the ends."""

    count: int
    next: str | None = None
    previous: str | None = None
    results: tuple[SessionEntry, ...]
