"""Everything a worker can be told from outside: one model, read once, passed in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from avatar_sessions.seal import Seal, SealError


class InvalidSettings(Exception):
    """The worker cannot start; the message names each variable and what to do."""


class WorkerSettings(BaseSettings):
    """Settings of ``python -m workers``; the field's alias is the environment variable."""

    model_config = SettingsConfigDict(env_prefix="", extra="ignore", populate_by_name=False)

    liveavatar_api_key: SecretStr = Field(alias="LIVEAVATAR_API_KEY")
    liveavatar_api_url: str = Field(
        default="https://api.liveavatar.com", alias="LIVEAVATAR_API_URL"
    )
    livekit_url: str | None = Field(default=None, alias="LIVEKIT_URL")
    livekit_api_key: str | None = Field(default=None, alias="LIVEKIT_API_KEY")
    livekit_api_secret: SecretStr | None = Field(default=None, alias="LIVEKIT_API_SECRET")
    seal_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(alias="AVATAR_SESSIONS_SEAL_KEYS")
    clip_folder: Path | None = Field(default=None, alias="AVATAR_SESSIONS_CLIP_FOLDER")
    clip_allow_private_addresses: bool = Field(
        default=False, alias="AVATAR_SESSIONS_CLIP_ALLOW_PRIVATE_ADDRESSES"
    )
    max_sessions: int = Field(default=100, ge=1, le=5000, alias="AVATAR_SESSIONS_MAX_SESSIONS")
    """Streams one process owns at once: its slots."""
    max_lead_s: float = Field(default=2.0, gt=0.4, le=30, alias="AVATAR_SESSIONS_MAX_LEAD_S")
    """How far speech is sent ahead of what is heard."""
    keep_alive_s: float = Field(default=60.0, ge=5, le=240, alias="AVATAR_SESSIONS_KEEP_ALIVE_S")
    drain_timeout_s: float = Field(
        default=9.0, ge=1, le=3600, alias="AVATAR_SESSIONS_DRAIN_TIMEOUT_S"
    )
    """From a signal until the process is gone, whatever hangs."""
    unsupervised_s: float = Field(
        default=120.0, ge=15, le=3600, alias="AVATAR_SESSIONS_UNSUPERVISED_S"
    )
    """For how long live speech goes on while Temporal does not answer."""
    ingress_host: str = Field(default="127.0.0.1", alias="AVATAR_SESSIONS_INGRESS_HOST")
    """Where live speech is taken: loopback, unless speakers are on other machines."""
    ingress_port: int = Field(default=0, ge=0, le=65535, alias="AVATAR_SESSIONS_INGRESS_PORT")
    """0: a free one, which speakers are told."""
    ingress_url: str | None = Field(default=None, alias="AVATAR_SESSIONS_INGRESS_URL")
    """The address of this very process that speakers are told, where it is not the one it listens
    on: ``wss://owner-3.example``."""
    ingress_certificate: Path | None = Field(
        default=None, alias="AVATAR_SESSIONS_INGRESS_CERTIFICATE"
    )
    ingress_private_key: Path | None = Field(
        default=None, alias="AVATAR_SESSIONS_INGRESS_PRIVATE_KEY"
    )
    ingress_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), alias="AVATAR_SESSIONS_INGRESS_ORIGINS"
    )
    ingress_path_tickets: bool = Field(default=False, alias="AVATAR_SESSIONS_INGRESS_PATH_TICKETS")
    ticket_ttl_s: float = Field(
        default=300.0, ge=1, le=86_400, alias="AVATAR_SESSIONS_TICKET_TTL_S"
    )
    janitor_interval_s: int = Field(
        default=30, ge=1, le=3600, alias="AVATAR_SESSIONS_JANITOR_INTERVAL_S"
    )
    """Between two rounds, whole seconds: what is left behind is stopped in the next one."""
    janitor_owns_key: bool = Field(default=False, alias="AVATAR_SESSIONS_JANITOR_OWNS_KEY")
    """Sessions on this API key that no workflow of this namespace has opened are nobody's."""
    janitor_grace_s: float = Field(
        default=60.0, ge=1, le=86_400, alias="AVATAR_SESSIONS_JANITOR_GRACE_S"
    )
    """How old such a session must be before it is stopped."""
    janitor_dry_run: bool = Field(default=False, alias="AVATAR_SESSIONS_JANITOR_DRY_RUN")
    seal_texts: bool = Field(default=False, alias="AVATAR_SESSIONS_SEAL_TEXTS")
    """Seal the words of live speech before they stand in history."""
    otlp_endpoint: str | None = Field(default=None, alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """Base address of an OTLP/HTTP collector; None: no traces, no metrics."""
    log_level: str = Field(
        default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", alias="AVATAR_SESSIONS_LOG_LEVEL"
    )

    @field_validator("seal_keys", "ingress_origins", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("seal_keys")
    @classmethod
    def _usable_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        try:
            Seal(keys)
        except SealError as error:
            raise ValueError(str(error)) from None
        return keys

    @field_validator("liveavatar_api_key")
    @classmethod
    def _key_given(cls, key: SecretStr) -> SecretStr:
        if not key.get_secret_value().strip():
            raise ValueError("is empty")
        return key

    @field_validator("liveavatar_api_url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not url.startswith(("https://", "http://")):
            raise ValueError("begins with https:// (or http:// for the simulator)")
        return url.rstrip("/")

    @field_validator("otlp_endpoint")
    @classmethod
    def _otlp_over_http(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("https://", "http://")):
            raise ValueError("begins with https:// or http://: traces go by OTLP over HTTP")
        return url

    @field_validator("livekit_url")
    @classmethod
    def _livekit_scheme(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("ws://", "wss://", "http://", "https://")):
            raise ValueError("begins with wss:// or ws://")
        return url

    @field_validator("clip_folder")
    @classmethod
    def _folder_exists(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
        return folder

    @field_validator("ingress_url")
    @classmethod
    def _websocket_scheme(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("ws://", "wss://")):
            raise ValueError("begins with wss:// or ws://")
        return None if url is None else url.rstrip("/")

    @field_validator("ingress_certificate", "ingress_private_key")
    @classmethod
    def _file_exists(cls, file: Path | None) -> Path | None:
        if file is not None and not file.is_file():
            raise ValueError(f"there is no file {file}")
        return file

    @model_validator(mode="after")
    def _tls_whole(self) -> WorkerSettings:
        if (self.ingress_private_key is None) != (self.ingress_certificate is None):
            raise ValueError(
                "AVATAR_SESSIONS_INGRESS_CERTIFICATE and AVATAR_SESSIONS_INGRESS_PRIVATE_KEY: set"
                " both, or none"
            )
        return self

    @model_validator(mode="after")
    def _livekit_whole(self) -> WorkerSettings:
        given = {
            "LIVEKIT_URL": self.livekit_url,
            "LIVEKIT_API_KEY": self.livekit_api_key,
            "LIVEKIT_API_SECRET": self.livekit_api_secret,
        }
        missing = [name for name, value in given.items() if value is None]
        if missing and len(missing) < len(given):
            raise ValueError(f"{', '.join(missing)}: set all three LIVEKIT_ variables, or none")
        return self


HINTS = {
    "LIVEAVATAR_API_KEY": "export it, or run the simulator with `make demo`",
    "AVATAR_SESSIONS_SEAL_KEYS": "make a key with `avatar-sessions new-seal-key`; clients that"
    " read access tokens need the same",
}


def read_settings() -> WorkerSettings:
    """Read the environment.

    Raises:
        InvalidSettings: something is missing or unusable; every problem is named, no value told.
    """
    try:
        return WorkerSettings()
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            name = str(problem["loc"][0]) if problem["loc"] else ""
            text = "is not set" if problem["type"] == "missing" else problem["msg"]
            text = text.removeprefix("Value error, ")
            hint = f": {HINTS[name]}" if problem["type"] == "missing" and name in HINTS else ""
            lines.append(f"{name} {text}{hint}".strip())
        raise InvalidSettings("\n".join(lines)) from None
