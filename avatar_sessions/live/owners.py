"""Where live speech gets its owner from: the three questions that the connection asks.

A protocol only. `avatar_sessions.session_owners` asks a real session's workflow; tests bring their
own.
"""

from __future__ import annotations

from typing import Protocol

from avatar_sessions.access import SpeakerTicket
from avatar_sessions.errors import AvatarSessionsError


class Owners(Protocol):
    """Answers questions about a session's owner."""

    async def attach(self) -> SpeakerTicket:
        """Wait until the session is live; return a ticket for its current owner.

        Raises:
            AvatarSessionsError: no ticket can be had, now or ever.
        """
        ...

    async def lost(self, epoch: tuple[int, int]) -> None:
        """Report that the connection to this owner broke and could not be made again.

        Raises:
            AvatarSessionsError: the report did not arrive.
        """
        ...

    async def ending(self) -> AvatarSessionsError | None:
        """Why the session is over or about to be; None while it goes on, as far as is known."""
        ...
