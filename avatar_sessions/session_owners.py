"""The owners of a real session: live speech asks the session's workflow through Temporal.

Implements `avatar_sessions.live.owners.Owners`. It opens no connection and retries nothing: that is
the live connection's part.
"""

from __future__ import annotations

from typing import Protocol

from avatar_sessions.access import Access, SpeakerTicket
from avatar_sessions.errors import (
    AvatarSessionsError,
    LiveSpeechUnavailable,
    NoAnswer,
    SessionFailed,
    SessionNotFound,
    SessionOver,
)


class SpeakableSession(Protocol):
    """What live speech needs of :class:`avatar_sessions.Session`."""

    @property
    def key(self) -> str:
        """The session's key."""
        ...

    async def attach(self, *, speaker: bool = False) -> Access:
        """Wait until the session is live, and get access to it."""
        ...

    async def owner_lost(self, epoch: tuple[int, int]) -> None:
        """Report that the connection to this owner broke."""
        ...

    async def ending(self) -> AvatarSessionsError | None:
        """Why the session is over or about to be; None while it goes on."""
        ...


class SessionOwners:
    """Finds the owner of one session by asking its workflow."""

    def __init__(self, session: SpeakableSession) -> None:
        self._session = session

    async def attach(self) -> SpeakerTicket:
        """See `Owners.attach`.

        Raises:
            LiveSpeechUnavailable: the owner takes no live speech.
            AvatarSessionsError: as :meth:`avatar_sessions.Session.attach`.
        """
        access = await self._session.attach(speaker=True)
        if access.speaker is None:
            raise LiveSpeechUnavailable(self._session.key)
        return access.speaker

    async def lost(self, epoch: tuple[int, int]) -> None:
        """See `Owners.lost`."""
        await self._session.owner_lost(epoch)

    async def ending(self) -> AvatarSessionsError | None:
        """See `Owners.ending`."""
        try:
            return await self._session.ending()
        except (SessionNotFound, SessionOver, SessionFailed) as error:
            return error
        except NoAnswer:
            return None
