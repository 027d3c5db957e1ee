"""Session tokens: JWTs with the claims that LiveAvatar's web SDK reads, signed by this process."""

from __future__ import annotations

import secrets
import time

import jwt

from liveavatar_simulator.session import SimulatedSession

_ALGORITHM = "HS256"


class SessionTokens:
    """Mints and verifies the tokens of one simulator; another one's are invalid."""

    def __init__(self, ttl_s: int) -> None:
        self._ttl_s = ttl_s
        self._key = secrets.token_bytes(32)

    def mint(self, session: SimulatedSession) -> str:
        """A token for one session. The web SDK assumes FULL mode without the mode claim."""
        now_s = int(time.time())
        claims = {
            "sub": session.session_id,
            "iat": now_s,
            "exp": now_s + self._ttl_s,
            "start_session_data": {
                "mode": "LITE",
                "session_id": session.session_id,
                "avatar_id": str(session.request.avatar_id),
                "is_sandbox": session.request.is_sandbox,
            },
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM)

    def session_id(self, token: str) -> str | None:
        """The id of the token's session; None if the token is invalid or expired."""
        try:
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM])
        except jwt.InvalidTokenError:
            return None
        return str(claims["sub"])
