"""Models of the REST API's requests and replies, after LiveAvatar's OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, SecretStr

SUCCESS_CODE = 1000
"""Observed in real traffic, though the OpenAPI document's default is 100. The web SDK accepts no
other."""
SUCCESS_MESSAGE = "Success"
"""Never null: Pipecat refuses null in the replies of ``/token`` and ``/start``."""

EndReason = Literal[
    "UNKNOWN",
    "USER_DISCONNECTED",
    "SERVER_ERROR",
    "IDLE_TIMEOUT",
    "NO_CREDITS",
    "USER_CLOSED",
    "AVATAR_DELETED",
    "MAX_DURATION_REACHED",
    "ZOMBIE_SESSION_REAP",
    "AGENT_HANG_UP",
    "DISPATCH_FAILED",
]
"""The reasons that ``/stop`` accepts."""

CreditsNumber = Annotated[Decimal, PlainSerializer(float, return_type=float)]


def envelope(payload: object) -> dict[str, object]:
    """A successful reply."""
    return {"code": SUCCESS_CODE, "data": payload, "message": SUCCESS_MESSAGE}


class VideoSettingsSchema(BaseModel):
    """Quality and codec of the video."""

    quality: Literal["very_high", "high", "medium", "low"] = "high"
    encoding: Literal["VP8", "H264"] = "H264"


class LiveKitConfigSchema(BaseModel):
    """A room on the caller's LiveKit.

    The short form ``{url, token}`` of some pages is a 422, as with LiveAvatar.
    """

    livekit_url: Annotated[str, Field(min_length=1)]
    livekit_room: Annotated[str, Field(min_length=1)]
    livekit_client_token: SecretStr
    """The avatar's own token, minted by the caller."""


class AgoraConfig(BaseModel):
    """The caller's Agora channel. Accepted, but no avatar joins it."""

    agora_app_id: str
    agora_token: SecretStr
    agora_channel: str
    agora_uid: str


class ElevenLabsAgentConfig(BaseModel):
    """Connector: an ElevenLabs agent."""

    secret_id: UUID
    agent_id: str


class RealtimeConfig(BaseModel):
    """Connector: OpenAI Realtime or Gemini Live."""

    secret_id: UUID
    temperature: float | None = None


class TokenRequestSchema(BaseModel):
    """Body of ``POST /v1/sessions/token``, LITE only. Unknown keys are ignored."""

    mode: Literal["LITE"] = "LITE"
    avatar_id: UUID
    is_sandbox: bool = False
    video_settings: VideoSettingsSchema | None = None
    max_session_duration: Annotated[int, Field(ge=1)] | None = None
    livekit_config: LiveKitConfigSchema | None = None
    agora_config: AgoraConfig | None = None
    elevenlabs_agent_config: ElevenLabsAgentConfig | None = None
    openai_realtime_config: RealtimeConfig | None = None
    gemini_realtime_config: RealtimeConfig | None = None

    @property
    def has_connector(self) -> bool:
        """Whether a connector provides the speech: then there is no ``ws_url``."""
        return any(
            (
                self.elevenlabs_agent_config,
                self.openai_realtime_config,
                self.gemini_realtime_config,
            )
        )


class StopRequest(BaseModel):
    """Body of ``POST /v1/sessions/stop``."""

    session_id: UUID | None = None
    reason: EndReason = "UNKNOWN"


class EndRequest(BaseModel):
    """Body of the simulator's own ``POST /simulator/sessions/{id}/end``."""

    model_config = ConfigDict(extra="forbid")

    reason: EndReason = "SERVER_ERROR"


class KeepAliveRequest(BaseModel):
    """Body of ``POST /v1/sessions/keep-alive``."""

    session_id: UUID | None = None


class SessionEntrySchema(BaseModel):
    """A row of the session list. It has no status field, as with LiveAvatar."""

    id: str
    created_at: datetime
    updated_at: datetime
    duration: int
    source: Literal["API"] = "API"
    mode: Literal["LITE"] = "LITE"
    is_sandbox: bool
    credits_consumed: CreditsNumber


class EndedSessionEntry(SessionEntrySchema):
    """A row of an ended session."""

    end_at: datetime
    end_reason: str


class AvatarEntry(BaseModel):
    """An avatar of the catalogue."""

    id: str
    name: str
    type: Literal["VIDEO"] = "VIDEO"
    status: Literal["ACTIVE"] = "ACTIVE"
    preview_url: str | None = None
    is_expired: bool = False
    default_voice: dict[str, Any] | None = None
    is_1080p: bool = True
    error_message: str | None = None
