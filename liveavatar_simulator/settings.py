"""Everything about the simulator that can be set, as one model.

Read once at the edge (command line or test) and passed in; nothing else reads the environment.
Times default to what was measured on the real service, and all of them may be 0.
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
"""Avatars that exist. Wayne is the only one the sandbox takes; the others exist here only."""


class SpeechSignals(StrEnum):
    """How the start and end of speech are told. Each was seen on the real service."""

    BOTH = "both"
    POSES = "poses"
    """Only ``agent.state_updated``: a session of 2026-09-11 never sent ``agent.speak_*``."""
    SPEECH = "speech"
    """Only ``agent.speak_*``: the older documentation."""


class Correlation(StrEnum):
    """How an event about speech names the command that caused it."""

    SOURCE = "source"
    """Fresh ``event_id``, ours in ``source_event_id``, and ``task.id``: the most seen live."""
    SAME = "same"
    """``event_id`` is the command's: the older documentation."""
    TASK = "task"
    """Only ``task.id``: one observer."""


class AtLimit(StrEnum):
    """What a session does when its maximum duration is over."""

    AS_MEASURED = "as-measured"
    """Sandbox sessions close, paid ones freeze."""
    CLOSE = "close"
    """The socket is closed with code 1000 and the avatar leaves."""
    FREEZE = "freeze"
    """Rendering stops without a word; socket and avatar stay."""


class SimulatorSettings(BaseSettings):
    """Settings of one simulator.

    Environment: ``SIMULATOR_`` and the name; LiveKit's three without prefix.
    """

    model_config = SettingsConfigDict(
        env_prefix="SIMULATOR_",
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
    )

    # Where it listens.
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8090
    """REST. 0 takes a free one."""
    media_port: Annotated[int, Field(ge=0, le=65535)] = 8091
    """WebSocket. 0 takes a free one."""

    public_host: str | None = None
    """What the host is called in ``ws_url``, where clients know it by another name."""

    # LiveKit: where hosted rooms are made.
    livekit_url: str = Field(
        default="ws://127.0.0.1:7880", validation_alias=AliasChoices("livekit_url", "LIVEKIT_URL")
    )
    livekit_api_key: str = Field(
        default="devkey", validation_alias=AliasChoices("livekit_api_key", "LIVEKIT_API_KEY")
    )
    livekit_api_secret: SecretStr = Field(
        default=SecretStr("secret"),
        validation_alias=AliasChoices("livekit_api_secret", "LIVEKIT_API_SECRET"),
    )
    join_rooms: bool = True
    """False: no LiveKit at all. Sessions keep their playback clock, but nobody is in any room."""
    join_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    leave_timeout_s: Annotated[float, Field(gt=0)] = 5.0

    # Who may call, and how often.
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = (SecretStr(DEFAULT_API_KEY),)
    """Keys that are accepted; comma-separated in the environment. All share one space."""
    session_token_ttl_s: Annotated[int, Field(gt=0)] = 3600
    """Not documented by LiveAvatar."""
    calls_per_s: Annotated[int, Field(ge=0)] = 100
    """Per caller and route, in fixed windows of 1 s.

    The real numbers are not known. 0: no limit, no headers.
    """

    # The plan.
    credits: Annotated[float, Field(ge=0)] = 1000.0
    """Balance at the start. One credit is one minute."""
    credit_period_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds that one credit pays for, and between two charges."""
    concurrency_limit: Annotated[int, Field(ge=1)] = 100
    """Sessions that may run at once. The free plan has 1; paid numbers are not known."""
    plan_max_duration_s: Annotated[int, Field(ge=1)] = 1200
    sandbox_max_duration_s: Annotated[int, Field(ge=1)] = 60
    any_avatar: bool = False
    """Take any avatar id outside the sandbox, not only those of the catalogue."""

    # Times.
    start_delay_s: Annotated[float, Field(ge=0)] = 0.3
    """Before the reply to ``/start``."""
    connect_delay_s: Annotated[float, Field(ge=0)] = 0.3
    """From an open socket to state connected."""
    speak_start_latency_s: Annotated[float, Field(ge=0)] = 0.2
    """From enough audio to the first sound. Measured: about 200 ms."""
    speak_start_buffer_s: Annotated[float, Field(ge=0)] = 0.4
    """How much audio is enough; ``agent.speak_end`` makes any amount enough."""
    interrupt_delay_s: Annotated[float, Field(ge=0)] = 0.19
    """From ``agent.interrupt`` to silence. Measured: 188 to 189 ms."""
    starvation_s: Annotated[float, Field(gt=0)] = 1.0
    """An open utterance without audio for this long is reported as starved.

    Not known in reality.
    """
    idle_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Without a command or keep-alive for this long the session ends."""
    zombie_timeout_s: Annotated[float, Field(gt=0)] = 200.0
    """Without a socket for this long the session ends. Measured: 194 s and 210 s."""
    duration_scale: Annotated[float, Field(gt=0)] = 1.0
    """Multiplies the enforced maximum duration only, so that a test need not wait a minute for the
    sandbox's end."""
    at_limit: AtLimit = AtLimit.AS_MEASURED

    # Dialects.
    state_names: StateDialect = StateDialect.NEW_CONNECTED_DISCONNECTED
    speech_signals: SpeechSignals = SpeechSignals.BOTH
    correlation: Correlation = Correlation.SOURCE
    reconnect: bool = True
    """Whether a session's ``ws_url`` may be opened again.

    A newer socket always replaces the older one.
    """

    # Pictures.
    fps: Annotated[int, Field(ge=5, le=60)] = 25
    """Measured on the real service at medium quality: about 25."""
    max_video_height: Annotated[int, Field(ge=90, le=1080)] = 720
    """Caps what ``video_settings.quality`` asks for: encoding in software costs a core sooner than
    one thinks."""

    # Ledger.
    tape_length: Annotated[int, Field(ge=1)] = 1000
    """Commands kept per session."""
    record_heard_s: Annotated[float, Field(ge=0)] = 0.0
    """How many seconds of its sound are kept of each session, the newest ones; 0: none."""
    heard_total_mb: Annotated[int, Field(ge=1)] = 1000
    """What the recorded sound of ended sessions may take of memory (silence takes none).

    The oldest lose theirs first.
    """
    sessions_kept: Annotated[int, Field(ge=1)] = 2000
    """Ended sessions kept; older ones are forgotten, the totals are not."""

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
