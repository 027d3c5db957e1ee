"""A `ViewerSource` over `avatar_sessions`: room access and status of real sessions."""

from __future__ import annotations

import secrets

from pydantic import SecretStr

from avatar_sessions.client import AvatarSessions
from avatar_sessions.errors import AvatarSessionsError
from viewer.source import ViewerAccess, ViewerSourceError, ViewerStatus


class SessionViewerSource:
    """Answers the viewer's questions about sessions with their queries and updates."""

    def __init__(self, sessions: AvatarSessions) -> None:
        self._sessions = sessions

    async def access(self, session_key: str) -> ViewerAccess:
        """Access under an identity of its own, so that several viewers can watch one room.

        A hosted room belongs to one generation, and `attach` does not say which. It is certain only
        when the generation is the same before and after the call.

        Raises:
            ViewerSourceError: the session does not grant access now.
        """
        session = self._sessions.get(session_key)
        identity = f"viewer-{secrets.token_hex(4)}"
        try:
            before = (await session.status()).generation
            while True:
                access = await session.attach(identity)
                url, token = access.viewer.livekit_url, SecretStr(access.viewer.token)
                if access.room is not None:
                    return ViewerAccess(url, token)
                after = (await session.status()).generation
                if after == before:
                    return ViewerAccess(url, token, generation=before)
                before = after
        except AvatarSessionsError as error:
            raise ViewerSourceError(str(error)) from error

    async def status(self, session_key: str) -> ViewerStatus:
        """The session's status, reduced to what the page shows.

        Raises:
            ViewerSourceError: the status is not available now.
        """
        try:
            status = await self._sessions.get(session_key).status()
        except AvatarSessionsError as error:
            raise ViewerSourceError(str(error)) from error
        return ViewerStatus(
            state=status.state,
            speaking=status.speaking is not None,
            pose=status.pose,
            generation=status.generation,
            live_at=status.live_at,
            end_reason=status.end_reason,
            detail=None if status.failure is None else status.failure.message,
        )
