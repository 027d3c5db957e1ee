"""What the client's tests ask for: a sandbox session, and clips of known lengths."""

from __future__ import annotations

from avatar_sessions import SessionRequest
from liveavatar_lite import WAYNE_AVATAR_ID

SHORT_MS, LONG_MS = 200, 30_000


def wanted(**fields: object) -> SessionRequest:
    """A request for the sandbox's avatar."""
    return SessionRequest.model_validate({"avatar_id": WAYNE_AVATAR_ID, "sandbox": True, **fields})
