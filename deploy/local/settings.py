"""The settings of the local stack, and how settings are handed to a child process.

`LocalSettings` is read once, at the edge, from the environment.
"""

from __future__ import annotations

import os
import shutil
import sys
from enum import Enum
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[2]

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class LocalSettings(BaseSettings):
    """Settings of the development stack and the demo.

    The environment variables have the fields' names, in capitals.
    """

    model_config = SettingsConfigDict(
        env_ignore_empty=True, extra="ignore", use_attribute_docstrings=True
    )

    # Servers that already run: set, and the stack uses them instead of its own.
    temporal_address: str | None = None
    """The address of a Temporal server that already runs. None: the stack starts one."""
    temporal_namespace: str = "default"
    """The Temporal namespace."""
    temporal_ui_url: str | None = None
    """The address of the Temporal UI. None: the one of the server that the stack starts."""
    livekit_url: str | None = None
    """The address of a LiveKit server that already runs. None: the stack starts one."""
    livekit_api_key: str | None = None
    """The API key of the LiveKit server that already runs."""
    livekit_api_secret: SecretStr | None = None
    """The API secret of the LiveKit server that already runs."""

    # The real service, for `make demo ARGS=--real`.
    liveavatar_api_key: SecretStr | None = None
    """LiveAvatar's API key, for the demo with the real service."""
    liveavatar_api_url: str = "https://api.liveavatar.com"
    """The base address of LiveAvatar's REST API."""

    avatar_sessions_seal_keys: SecretStr | None = None
    """Comma-separated Fernet keys, newest first. None: a new one for each run of the demo."""

    # Servers that the stack starts. Not zero: other programs need to know the ports.
    temporal_port: int = Field(default=7233, ge=1, le=65535)
    """The port of the Temporal server that the stack starts."""
    temporal_ui_port: int = Field(default=8233, ge=1, le=65535)
    """The port of the Temporal UI that the stack starts."""
    livekit_port: int = Field(default=7880, ge=1, le=65535)
    """The port of the LiveKit server that the stack starts."""
    simulator_port: int = Field(default=8090, ge=1, le=65535)
    """The port of the simulator's REST API."""
    simulator_media_port: int = Field(default=8091, ge=1, le=65535)
    """The port of the simulator's media WebSocket."""
    viewer_port: int = Field(default=8080, ge=1, le=65535)
    """The port of the viewer."""

    audio: Path | None = None
    """An audio file that the demo plays instead of its own."""
    demo_folder: Path = ROOT / ".demo"
    """Logs, clips and the environment file of a running demo."""
    chromium: Path | None = None
    """The path of a Chromium or Chrome. None: the first one on PATH."""
    ci: bool = False
    """Whether this is a CI run: a missing Chromium then fails tests instead of skipping them."""
    no_color: str | None = None
    """Any value: no colours in the output."""
    xdg_cache_home: Path | None = None
    """The user's cache folder, in which built servers are kept. None: the system's default."""

    @property
    def cache_folder(self) -> Path:
        """Where built servers are kept: the user's cache folder, shared by every checkout."""
        if self.xdg_cache_home is not None:
            base = self.xdg_cache_home
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path.home() / ".cache"
        return base / "liveavatar-sessions"


def find_chromium(settings: LocalSettings) -> Path | None:
    """Path of a Chromium or Chrome: CHROMIUM if set, else the first one on PATH, else None."""
    if settings.chromium is not None:
        return settings.chromium if os.access(settings.chromium, os.X_OK) else None
    found = (shutil.which(name) for name in CHROMIUM_NAMES)
    return next((Path(path) for path in found if path), None)


class ExplicitSettings(BaseSettings):
    """Mixed in before a settings model: only the given values, not this process's environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def settings_environment(settings: BaseSettings) -> dict[str, str]:
    """The environment variables that make a child process read the same settings.

    Only settings that differ from their defaults because they were set are named. The values may
    be secrets.
    """
    return {
        _variable(settings, name): _text(getattr(settings, name))
        for name in type(settings).model_fields
        if name in settings.model_fields_set and getattr(settings, name) is not None
    }


def _variable(settings: BaseSettings, name: str) -> str:
    field = type(settings).model_fields[name]
    alias = field.validation_alias or field.alias
    if isinstance(alias, AliasChoices):
        alias = alias.choices[-1]
    if isinstance(alias, str):
        return alias.upper()
    return f"{settings.model_config.get('env_prefix') or ''}{name}".upper()


def _text(setting: object) -> str:
    if isinstance(setting, SecretStr):
        return setting.get_secret_value()
    if isinstance(setting, tuple | list):
        return ",".join(map(_text, setting))
    if isinstance(setting, bool):
        return str(setting).lower()
    return str(setting.value if isinstance(setting, Enum) else setting)
