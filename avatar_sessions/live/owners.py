"""Where a speaker gets its owner from: the session's workflow, asked through Temporal.

The connection needs no more of a session than these three calls; a test gives its own.
"""

from __future__ import annotations

from typing import Protocol

from avatar_sessions.access import SpeakerTicket
from avatar_sessions.errors import (
    AvatarSessionsError,
    LiveSpeechUnavailable,
    NoAnswer,
    SessionFailed,
    SessionNotFound,
    SessionOver,
)
from avatar_sessions.session import Session


class Owners(Protocol):
    """What is asked about a session's owner."""

    async def attach(self) -> SpeakerTicket:
        """Wait until the session is live; a ticket for whoever owns it then.

        Raises:
            AvatarSessionsError: there is none, now or for ever.
        """
        ...

    async def lost(self, epoch: tuple[int, int]) -> None:
        """Tell that the connection to this owner broke and could not be made again.

        Raises:
            AvatarSessionsError: it could not be told.
        """
        ...

    async def ending(self) -> AvatarSessionsError | None:
        """Why the session is over or about to be; None: it goes on, as far as can be told."""
        ...


class SessionOwners:
    """The owners of a real session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def attach(self) -> SpeakerTicket:
        """See `Owners`.

        Raises:
            LiveSpeechUnavailable: the owner takes no live speech.
            AvatarSessionsError: as :meth:`avatar_sessions.Session.attach`.
        """
        access = await self._session.attach(speaker=True)
        if access.speaker is None:
            raise LiveSpeechUnavailable(self._session.key)
        return access.speaker

    async def lost(self, epoch: tuple[int, int]) -> None:
        """See `Owners`."""
        await self._session.owner_lost(epoch)

    async def ending(self) -> AvatarSessionsError | None:
        """See `Owners`."""
        try:
            return await self._session.ending()
        except (SessionNotFound, SessionOver, SessionFailed) as error:
            return error
        except NoAnswer:
            return None
