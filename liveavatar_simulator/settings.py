"""The simulator's settings, as one model.

Read once at the edge (command line or test) and passed in; nothing else reads the environment.
Times default to what was measured on LiveAvatar.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from liveavatar_lite.models import WAYNE_AVATAR_ID
from liveavatar_lite.protocol import StateDialect

DEFAULT_API_KEY = "simulator-key"
CATALOGUE: dict[UUID, str] = {
    UUID(WAYNE_AVATAR_ID): "Wayne",
    UUID("11111111-1111-4111-8111-111111111111"): "Ada (simulated)",
    UUID("22222222-2222-4222-8222-222222222222"): "Grace (simulated)",
}
"""The known avatars. The sandbox accepts only Wayne; the others exist only here."""


class SpeechSignals(StrEnum):
    """Which events report the start and end of speech. Each was observed on LiveAvatar."""

    BOTH = "both"
    POSES = "poses"
    """Only ``agent.state_updated``: a session on 2026-09-11 never sent ``agent.speak_*``."""
    SPEECH = "speech"
    """Only ``agent.speak_*``: the older documentation."""


class Correlation(StrEnum):
    """How a speech event names the command that caused it."""

    SOURCE = "source"
    """Fresh ``event_id``, the command's in ``source_event_id``, and ``task.id``: most common."""
    SAME = "same"
    """The command's ``event_id``: the older documentation."""
    TASK = "task"
    """Only ``task.id``: reported once."""


class AtLimit(StrEnum):
    """What a session does at its maximum duration."""

    AS_MEASURED = "as-measured"
    """Sandbox sessions close, paid ones freeze."""
    CLOSE = "close"
    """The socket is closed with code 1000 and the avatar leaves."""
    FREEZE = "freeze"
    """Rendering stops without an event; socket and avatar stay."""


class SimulatorSettings(BaseSettings):
    """Settings of one simulator.

    Environment variables: ``SIMULATOR_`` and the name; LiveKit's three have no prefix.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIMULATOR_",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_by_name=True,
        validate_by_alias=True,
    )

    # Where it listens.
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8090
    """Port of the REST API; 0 takes a free one."""
    media_port: Annotated[int, Field(ge=0, le=65535)] = 8091
    """Port of the media WebSocket; 0 takes a free one."""
    public_host: str | None = None
    """Host name in ``ws_url``, where clients reach this machine by another name than ``host``."""

    # LiveKit.
    livekit_url: str = Field(
        default="ws://127.0.0.1:7880", validation_alias=AliasChoices("livekit_url", "LIVEKIT_URL")
    )
    """LiveKit server for hosted rooms."""
    livekit_api_key: str = Field(
        default="devkey", validation_alias=AliasChoices("livekit_api_key", "LIVEKIT_API_KEY")
    )
    """API key of that server."""
    livekit_api_secret: SecretStr = Field(
        default=SecretStr("secret"),
        validation_alias=AliasChoices("livekit_api_secret", "LIVEKIT_API_SECRET"),
    )
    """API secret of that server."""
    join_rooms: bool = True
    """False: no LiveKit. Sessions keep their playback clock, but no avatar joins a room."""
    join_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Limit for an avatar to join its room, and for calls of LiveKit's API."""
    leave_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """Limit for an avatar to leave its room, and to delete the room."""

    # Authentication and rate limits.
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = (SecretStr(DEFAULT_API_KEY),)
    """Accepted API keys; comma-separated in the environment. All share one account."""
    session_token_ttl_s: Annotated[int, Field(gt=0)] = 3600
    """Validity of session tokens. LiveAvatar does not document it."""
    calls_per_s: Annotated[int, Field(ge=0)] = 100
    """Rate limit per caller and route, in fixed windows of 1 s; 0: no limit, no headers.

    LiveAvatar's own numbers are not known.
    """

    # The plan.
    credits: Annotated[float, Field(ge=0)] = 1000.0
    """Initial balance. One credit is one minute."""
    credit_period_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds that one credit pays for; also the interval between charges."""
    concurrency_limit: Annotated[int, Field(ge=1)] = 100
    """Maximum number of running sessions. The free plan has 1; paid plans are not known."""
    plan_max_duration_s: Annotated[int, Field(ge=1)] = 1200
    """Maximum duration of a paid session."""
    sandbox_max_duration_s: Annotated[int, Field(ge=1)] = 60
    """Maximum duration of a sandbox session."""
    any_avatar: bool = False
    """Accept any avatar id outside the sandbox, not only those of the catalogue."""

    # Delays and timeouts.
    start_delay_s: Annotated[float, Field(ge=0)] = 0.3
    """Delay before the reply to ``/start``."""
    connect_delay_s: Annotated[float, Field(ge=0)] = 0.3
    """Delay from an open socket to state connected."""
    speak_start_latency_s: Annotated[float, Field(ge=0)] = 0.2
    """Delay from enough audio to the first sound. Measured: about 200 ms."""
    speak_start_buffer_s: Annotated[float, Field(ge=0)] = 0.4
    """How much audio is enough to begin; after ``agent.speak_end`` any amount is."""
    interrupt_delay_s: Annotated[float, Field(ge=0)] = 0.19
    """Delay from ``agent.interrupt`` to silence. Measured: 188 to 189 ms."""
    starvation_s: Annotated[float, Field(gt=0)] = 1.0
    """An open utterance without audio for this long is reported as starved.

    LiveAvatar's value is not known.
    """
    idle_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """A session without a command or keep-alive for this long ends."""
    zombie_timeout_s: Annotated[float, Field(gt=0)] = 200.0
    """A session without a socket for this long ends. Measured: 194 s and 210 s."""
    duration_scale: Annotated[float, Field(gt=0)] = 1.0
    """Multiplies the enforced maximum duration, so that a test need not wait a minute."""
    at_limit: AtLimit = AtLimit.AS_MEASURED
    """What a session does at its maximum duration."""

    # Dialects.
    state_names: StateDialect = StateDialect.NEW_CONNECTED_DISCONNECTED
    """Names of the session states on the socket."""
    speech_signals: SpeechSignals = SpeechSignals.BOTH
    """Which events report the start and end of speech."""
    correlation: Correlation = Correlation.SOURCE
    """How a speech event names the command that caused it."""
    reconnect: bool = True
    """Whether a session's ``ws_url`` may be opened again.

    A newer socket always replaces the older one.
    """

    # Video.
    fps: Annotated[int, Field(ge=5, le=60)] = 25
    """Frames per second. Measured on LiveAvatar at medium quality: about 25."""
    max_video_height: Annotated[int, Field(ge=90, le=1080)] = 720
    """Caps the height that ``video_settings.quality`` asks for: software encoding is expensive."""

    # Ledger and recording.
    tape_length: Annotated[int, Field(ge=1)] = 1000
    """Number of commands kept per session."""
    record_heard_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds of audio to record of each session, the newest ones; 0: none."""
    heard_total_mb: Annotated[int, Field(ge=1)] = 1000
    """Memory limit for the recordings of ended sessions (silence takes none).

    The oldest are dropped first.
    """
    sessions_kept: Annotated[int, Field(ge=1)] = 2000
    """Number of ended sessions kept; the totals include those that were dropped."""

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(key.strip() for key in value.split(",") if key.strip())
        return value

    @field_validator("api_keys")
    @classmethod
    def _some_key(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not value:
            raise ValueError("name at least one API key")
        return value
