"""The sessions that this process owns, found by key and epoch."""

from __future__ import annotations

from avatar_sessions.contract.activities import Epoch
from owner.session import OwnedSession


class SessionRegistry:
    """The sessions this process owns. During a rotation a key has two: the old and the next."""

    def __init__(self) -> None:
        self._sessions: list[OwnedSession] = []

    def add(self, session: OwnedSession) -> None:
        """Add a session."""
        self._sessions.append(session)

    def remove(self, session: OwnedSession) -> None:
        """Remove a session, if it is there."""
        if session in self._sessions:
            self._sessions.remove(session)

    def get(self, key: str, epoch: Epoch) -> OwnedSession | None:
        """The session, if this process owns it in exactly this epoch."""
        found = (one for one in self._sessions if one.key == key and one.epoch == epoch)
        return next(found, None)

    def all(self) -> list[OwnedSession]:
        """Every session that is owned now."""
        return list(self._sessions)

    def __len__(self) -> int:
        return len(self._sessions)
