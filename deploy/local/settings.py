"""Every setting of the local stack, read once at the edge from the environment."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[2]

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class LocalSettings(BaseSettings):
    """Field names are the environment variables' names, in lower case."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    # Servers that already run: set, and the stack uses them instead of its own.
    temporal_address: str | None = None
    temporal_namespace: str = "default"
    temporal_ui_url: str | None = None
    livekit_url: str | None = None
    livekit_api_key: str | None = None
    livekit_api_secret: SecretStr | None = None

    # LiveAvatar itself, for `make demo ARGS=--live`.
    liveavatar_api_key: SecretStr | None = None
    liveavatar_api_url: str = "https://api.liveavatar.com"

    avatar_sessions_seal_keys: SecretStr | None = None
    """Comma-separated Fernet keys, newest first. None: a new one for each run of the demo."""

    temporal_port: int = Field(default=7233, ge=1, le=65535)
    temporal_ui_port: int = Field(default=8233, ge=1, le=65535)
    livekit_port: int = Field(default=7880, ge=1, le=65535)
    simulator_port: int = Field(default=8090, ge=1, le=65535)
    simulator_media_port: int = Field(default=8091, ge=1, le=65535)
    viewer_port: int = Field(default=8080, ge=1, le=65535)

    audio: Path | None = None
    demo_folder: Path = ROOT / ".demo"
    """Logs, clips and the environment file of a running demo."""
    chromium: Path | None = None
    ci: bool = False
    no_color: str | None = None
    xdg_cache_home: Path | None = None

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
