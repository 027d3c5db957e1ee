"""The client's own settings, read once, at the edge.

Where Temporal is, and how to log in there, is not here: that is Temporal's standard
environment configuration (``TEMPORAL_ADDRESS``, ``TEMPORAL_NAMESPACE``, ``TEMPORAL_API_KEY``,
``TEMPORAL_CONFIG_FILE``, ``TEMPORAL_TLS_*``...), which the Temporal SDK reads itself.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from avatar_sessions.contract.names import SESSIONS_TASK_QUEUE


class ClientSettings(BaseSettings):
    """What a backend may set by environment."""

    model_config = SettingsConfigDict(env_prefix="AVATAR_SESSIONS_", extra="ignore", frozen=True)

    seal_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """``AVATAR_SESSIONS_SEAL_KEYS``: comma-separated, newest first; needed for access only."""
    task_queue: Annotated[str, Field(min_length=1)] = SESSIONS_TASK_QUEUE
    """``AVATAR_SESSIONS_TASK_QUEUE``: where sessions are started; the workers' must match."""

    @field_validator("seal_keys", mode="before")
    @classmethod
    def _comma_separated(cls, keys: object) -> object:
        if isinstance(keys, str):
            return tuple(key.strip() for key in keys.split(",") if key.strip())
        return keys
