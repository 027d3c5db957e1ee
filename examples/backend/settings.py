"""The backend's settings, read once from the environment, and the voice that they choose.

Where Temporal is and the seal keys are read by `avatar_sessions` itself: TEMPORAL_ADDRESS and its
like, AVATAR_SESSIONS_SEAL_KEYS.
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
    """None: a voice of this machine."""
    openai_base_url: Annotated[str, StringConstraints(pattern=r"^https?://")] = OPENAI_URL
    """Of any server that knows OpenAI's ``/v1/audio/speech``."""
    openai_tts_model: str = "gpt-4o-mini-tts"
    openai_tts_voice: str = "alloy"

    backend_avatar_id: UUID = UUID(str(WAYNE_AVATAR_ID))
    backend_sandbox: bool = True
    """Free, and about a minute long. Not for a browser to choose: it decides what is billed."""
    backend_max_duration_s: int | None = Field(default=None, ge=10, le=24 * 3600)
    backend_idle_timeout_s: float = Field(default=120.0, ge=1, le=24 * 3600)
    """Ends sessions whose page was closed without a word."""
    backend_tenant: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "examples"
    """Stands on every session; with a login, the caller's account."""
    backend_max_lines: int = Field(default=50, ge=1, le=10_000)
    """Sessions that this process speaks for at once."""

    def session_request(self, tenant: str) -> SessionRequest:
        """What a caller's session is started with."""
        return SessionRequest(
            avatar_id=self.backend_avatar_id,
            sandbox=self.backend_sandbox,
            max_duration_s=self.backend_max_duration_s,
            idle_timeout_s=self.backend_idle_timeout_s,
            tenant=tenant,
        )


@contextlib.asynccontextmanager
async def voice_of(settings: BackendSettings) -> AsyncIterator[StreamingTts]:
    """The voice of these settings, while the context is open.

    Raises:
        examples.tts.TtsKeyRefused: the key cannot be one.
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
