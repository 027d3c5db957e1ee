"""The backend's settings, read once from the environment, and the voice that they select.

`avatar_sessions` itself reads Temporal's variables (TEMPORAL_ADDRESS, …) and
AVATAR_SESSIONS_SEAL_KEYS.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from pydantic import Field, SecretStr, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

from avatar_sessions import SessionRequest
from examples.local_tts import local_tts
from examples.tts import OPENAI_URL, OpenAiTts, StreamingTts
from liveavatar_lite import WAYNE_AVATAR_ID


class BackendSettings(BaseSettings):
    """Field names are the environment variables' names, in lower case."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    openai_api_key: SecretStr | None = None
    """None: a local voice."""
    openai_base_url: Annotated[str, StringConstraints(pattern=r"^https?://")] = OPENAI_URL
    """Any server with OpenAI's ``/v1/audio/speech``."""
    openai_tts_model: str = "gpt-4o-mini-tts"
    openai_tts_voice: str = "alloy"

    backend_avatar_id: UUID = UUID(str(WAYNE_AVATAR_ID))
    backend_sandbox: bool = True
    """Free, about a minute long. Not the browser's choice: it decides about billing."""
    backend_max_duration_s: int | None = Field(default=None, ge=10, le=24 * 3600)
    backend_idle_timeout_s: float = Field(default=120.0, ge=1, le=24 * 3600)
    """Ends sessions whose page was closed."""
    backend_tenant: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "examples"
    """The tenant of every session; with a login, the caller's account."""
    backend_max_lines: int = Field(default=50, ge=1, le=10_000)
    """Maximum number of sessions that this process speaks for."""

    def session_request(self, tenant: str) -> SessionRequest:
        """The request for a caller's session."""
        return SessionRequest(
            avatar_id=self.backend_avatar_id,
            sandbox=self.backend_sandbox,
            max_duration_s=self.backend_max_duration_s,
            idle_timeout_s=self.backend_idle_timeout_s,
            tenant=tenant,
        )


@contextlib.asynccontextmanager
async def voice_of(settings: BackendSettings) -> AsyncIterator[StreamingTts]:
    """The voice that the settings select, while the context is open.

    Raises:
        examples.tts.TtsKeyRefused: the key has illegal characters.
    """
    if settings.openai_api_key is None:
        yield local_tts()
        return
    async with OpenAiTts(
        settings.openai_api_key,
        base_url=settings.openai_base_url,
        model=settings.openai_tts_model,
        voice=settings.openai_tts_voice,
    ) as tts:
        yield tts
