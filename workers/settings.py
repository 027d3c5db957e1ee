"""The worker's settings: one model, read from the environment once and passed in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from avatar_sessions.contract.names import SESSIONS_TASK_QUEUE
from avatar_sessions.seal import Seal, SealError
from owner.ingress.addresses import is_wildcard


class InvalidSettings(Exception):
    """The worker cannot start; the message names each variable and what to do."""


class WorkerSettings(BaseSettings):
    """Settings of ``python -m workers``. A field's alias is its environment variable.

    The standard variables of Temporal (``TEMPORAL_*``) and of OpenTelemetry (``OTEL_SERVICE_NAME``,
    ``OTEL_RESOURCE_ATTRIBUTES``) are read by their SDKs.
    """

    model_config = SettingsConfigDict(
        env_prefix="", extra="ignore", populate_by_name=False, use_attribute_docstrings=True
    )

    liveavatar_api_key: SecretStr = Field(alias="LIVEAVATAR_API_KEY")
    """LiveAvatar's API key. It never leaves the workers."""
    liveavatar_api_url: str = Field(
        default="https://api.liveavatar.com", alias="LIVEAVATAR_API_URL"
    )
    """The base address of LiveAvatar's REST API, or the simulator's."""
    livekit_url: str | None = Field(default=None, alias="LIVEKIT_URL")
    """The LiveKit server for sessions with an ``OwnRoom``: ws:// or wss://. LiveAvatar must be
    able to reach it. Set all three LIVEKIT_ variables, or none."""
    livekit_api_key: str | None = Field(default=None, alias="LIVEKIT_API_KEY")
    """The LiveKit server's API key."""
    livekit_api_secret: SecretStr | None = Field(default=None, alias="LIVEKIT_API_SECRET")
    """The LiveKit server's API secret."""
    seal_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(alias="AVATAR_SESSIONS_SEAL_KEYS")
    """The Fernet keys that encrypt secrets in Temporal: comma-separated, newest first. Clients
    that read access tokens need the same. `avatar-sessions new-seal-key` makes one."""
    task_queue: str = Field(
        default=SESSIONS_TASK_QUEUE, min_length=1, alias="AVATAR_SESSIONS_TASK_QUEUE"
    )
    """The Temporal task queue of the session workflows and their short activities. It must be the
    clients'. The queues of owners and of the janitor have fixed names, so two deployments with
    different keys need two namespaces."""
    clip_folder: Path | None = Field(default=None, alias="AVATAR_SESSIONS_CLIP_FOLDER")
    """The folder from which clips given as ``file`` are read; nothing outside it is read. None:
    such clips are rejected."""
    clip_allow_private_addresses: bool = Field(
        default=False, alias="AVATAR_SESSIONS_CLIP_ALLOW_PRIVATE_ADDRESSES"
    )
    """Fetch clips from loopback and private addresses, too."""
    max_sessions: int = Field(default=100, ge=1, le=5000, alias="AVATAR_SESSIONS_MAX_SESSIONS")
    """How many sessions one process owns at the same time."""
    max_lead_s: float = Field(default=2.0, gt=0.4, le=30, alias="AVATAR_SESSIONS_MAX_LEAD_S")
    """How many seconds speech is sent ahead of what has been heard."""
    keep_alive_s: float = Field(default=60.0, ge=5, le=240, alias="AVATAR_SESSIONS_KEEP_ALIVE_S")
    """How many seconds pass between two keep-alives, which restart LiveAvatar's idle timeout."""
    drain_timeout_s: float = Field(
        default=9.0, ge=1, le=3600, alias="AVATAR_SESSIONS_DRAIN_TIMEOUT_S"
    )
    """How many seconds pass from SIGTERM until the process has exited, whatever hangs. Sessions
    are handed over first. A second signal exits immediately."""
    unsupervised_s: float = Field(
        default=120.0, ge=15, le=3600, alias="AVATAR_SESSIONS_UNSUPERVISED_S"
    )
    """How many seconds an owner continues its sessions while Temporal does not answer."""
    ingress_host: str = Field(default="127.0.0.1", alias="AVATAR_SESSIONS_INGRESS_HOST")
    """The address on which this process listens for live speech. 0.0.0.0 and :: listen on all
    interfaces; speakers are then sent this host's own address, the one that it routes from."""
    ingress_port: int = Field(default=0, ge=0, le=65535, alias="AVATAR_SESSIONS_INGRESS_PORT")
    """The port on which this process listens for live speech. 0: a free port."""
    ingress_url: str | None = Field(default=None, alias="AVATAR_SESSIONS_INGRESS_URL")
    """The address of this process that speakers are sent, such as ``wss://owner-3.example``. None:
    the address on which it listens."""
    ingress_certificate: Path | None = Field(
        default=None, alias="AVATAR_SESSIONS_INGRESS_CERTIFICATE"
    )
    """A PEM file with the certificate chain for TLS. Set both TLS files, or none."""
    ingress_private_key: Path | None = Field(
        default=None, alias="AVATAR_SESSIONS_INGRESS_PRIVATE_KEY"
    )
    """A PEM file with the certificate's private key."""
    ingress_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), alias="AVATAR_SESSIONS_INGRESS_ORIGINS"
    )
    """The web origins that may connect to the ingress, comma-separated. None: web pages are
    refused."""
    ingress_path_tickets: bool = Field(default=False, alias="AVATAR_SESSIONS_INGRESS_PATH_TICKETS")
    """Accept tickets in the path of the address, for clients that cannot set a header."""
    ticket_ttl_s: float = Field(
        default=300.0, ge=1, le=86_400, alias="AVATAR_SESSIONS_TICKET_TTL_S"
    )
    """How many seconds a ticket for the ingress is valid."""
    janitor_interval_s: int = Field(
        default=30, ge=1, le=3600, alias="AVATAR_SESSIONS_JANITOR_INTERVAL_S"
    )
    """How many whole seconds pass between two rounds of the janitor."""
    janitor_owns_key: bool = Field(default=False, alias="AVATAR_SESSIONS_JANITOR_OWNS_KEY")
    """Stop LiveAvatar sessions on this API key that no workflow of this namespace has opened. Only
    for an API key that nothing else uses."""
    janitor_grace_s: float = Field(
        default=60.0, ge=1, le=86_400, alias="AVATAR_SESSIONS_JANITOR_GRACE_S"
    )
    """How many seconds old such a session must be before it is stopped."""
    janitor_dry_run: bool = Field(default=False, alias="AVATAR_SESSIONS_JANITOR_DRY_RUN")
    """Let the janitor report what it would end, and end nothing."""
    seal_texts: bool = Field(default=False, alias="AVATAR_SESSIONS_SEAL_TEXTS")
    """Encrypt the words of live speech before they are written to workflow history."""
    otlp_endpoint: str | None = Field(default=None, alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """The base address of an OTLP/HTTP collector for traces and the janitor's metrics. None: no
    traces, no metrics."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", alias="AVATAR_SESSIONS_LOG_LEVEL"
    )
    """The least severe level that is logged: DEBUG, INFO, WARNING or ERROR, in any case."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, level: Any) -> Any:
        return level.upper() if isinstance(level, str) else level

    @field_validator("seal_keys", "ingress_origins", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
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
            raise ValueError("must begin with https:// (or http:// for the simulator)")
        return url.rstrip("/")

    @field_validator("otlp_endpoint")
    @classmethod
    def _otlp_over_http(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("https://", "http://")):
            raise ValueError("must begin with https:// or http://: traces go by OTLP over HTTP")
        return url

    @field_validator("livekit_url")
    @classmethod
    def _livekit_scheme(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("ws://", "wss://", "http://", "https://")):
            raise ValueError("must begin with wss:// or ws://")
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
            raise ValueError("must begin with wss:// or ws://")
        return None if url is None else url.rstrip("/")

    @field_validator("ingress_certificate", "ingress_private_key")
    @classmethod
    def _file_exists(cls, file: Path | None) -> Path | None:
        if file is not None and not file.is_file():
            raise ValueError(f"there is no file {file}")
        return file

    @model_validator(mode="after")
    def _tls_complete(self) -> WorkerSettings:
        if (self.ingress_private_key is None) != (self.ingress_certificate is None):
            raise ValueError(
                "AVATAR_SESSIONS_INGRESS_CERTIFICATE and AVATAR_SESSIONS_INGRESS_PRIVATE_KEY: set"
                " both, or none"
            )
        if self.ingress_certificate and not self.ingress_url and is_wildcard(self.ingress_host):
            raise ValueError(
                "AVATAR_SESSIONS_INGRESS_HOST means all interfaces, which no certificate names: set"
                " AVATAR_SESSIONS_INGRESS_URL to an address that the certificate names"
            )
        return self

    @model_validator(mode="after")
    def _livekit_complete(self) -> WorkerSettings:
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
    """Read the settings from the environment.

    Raises:
        InvalidSettings: a variable is missing or unusable. Every problem is named, no value is
            quoted.
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
