"""Invitations with a one-time code, and the pass that a browser gets for the code.

Kept in memory, as digests of the secrets only. Knows no HTTP; a session is only its key here.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pydantic import SecretStr

INVITATION_TTL_S: Final = 600.0
PASS_TTL_S: Final = 12 * 3600.0
MAX_INVITATIONS: Final = 10_000
"""Beyond it the oldest are dropped; a loopback server stays far below."""
_SECRET_BYTES: Final = 24


class InvitationState(StrEnum):
    """The state of an invitation."""

    OPEN = "open"  # the code has not been redeemed
    USED = "used"  # the code was redeemed: one browser has a pass for the page
    EXPIRED = "expired"  # the code was not redeemed in time, or the pass expired


TRANSITIONS: Final[dict[InvitationState, frozenset[InvitationState]]] = {
    InvitationState.OPEN: frozenset({InvitationState.USED, InvitationState.EXPIRED}),
    InvitationState.USED: frozenset({InvitationState.EXPIRED}),
    InvitationState.EXPIRED: frozenset(),
}


class InvitationRefused(Exception):
    """A browser may not see the page. The text is for the person in front of it.

    InvitationRefused
    ├── UnknownInvitation   no such page, wrong code, or no pass
    ├── InvitationUsed      the code has been redeemed already
    └── InvitationExpired   the code or the pass has expired
    """

    http_status = 403
    error = "refused"


class UnknownInvitation(InvitationRefused):
    """There is no such page, the code is not its code, or the browser has no pass for it."""

    http_status = 404
    error = "unknown_invitation"


class InvitationUsed(InvitationRefused):
    """The code has been redeemed, by another browser or before this one lost its cookie."""

    http_status = 410
    error = "invitation_used"


class InvitationExpired(InvitationRefused):
    """The code was not redeemed in time, or the pass has expired."""

    http_status = 410
    error = "invitation_expired"


@dataclass
class Invitation:
    """One link: a page, and the digest of the secret that opens it."""

    page: str
    session_key: str
    secret_digest: bytes = field(repr=False)
    """The code's digest while OPEN, the pass's while USED."""
    expires_at: float
    """Monotonic clock, seconds."""
    state: InvitationState = InvitationState.OPEN

    def become(self, wanted: InvitationState) -> None:
        """Change the state.

        Raises:
            RuntimeError: `TRANSITIONS` does not allow it: a bug.
        """
        if wanted not in TRANSITIONS[self.state]:
            raise RuntimeError(f"an invitation cannot go from {self.state} to {wanted}")
        self.state = wanted


class Invitations:
    """All invitations of one server."""

    def __init__(
        self,
        *,
        invitation_ttl_s: float = INVITATION_TTL_S,
        pass_ttl_s: float = PASS_TTL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.invitation_ttl_s = invitation_ttl_s
        self.pass_ttl_s = pass_ttl_s
        self._clock = clock
        self._by_page: dict[str, Invitation] = {}

    def invite(self, session_key: str) -> tuple[str, str]:
        """A new page, and the code that opens it once."""
        while len(self._by_page) >= MAX_INVITATIONS:
            del self._by_page[next(iter(self._by_page))]
        page, code = secrets.token_urlsafe(9), secrets.token_urlsafe(_SECRET_BYTES)
        expires_at = self._clock() + self.invitation_ttl_s
        self._by_page[page] = Invitation(page, session_key, _digest(code), expires_at)
        return page, code

    def redeem(self, page: str, code: SecretStr) -> tuple[Invitation, SecretStr]:
        """Redeem the code; returns the invitation and the browser's pass.

        Raises:
            InvitationUsed: the code has been redeemed before.
            InvitationExpired: the code has expired.
            UnknownInvitation: no such page, or not its code.
        """
        invitation = self._current(page)
        if invitation.state is InvitationState.USED:
            raise InvitationUsed(
                "This link has already been used. Each link opens once; ask for a new one."
            )
        if not hmac.compare_digest(invitation.secret_digest, _digest(code.get_secret_value())):
            raise UnknownInvitation("This link is not complete. Open it exactly as it was given.")
        viewer_pass = secrets.token_urlsafe(_SECRET_BYTES)
        invitation.become(InvitationState.USED)
        invitation.secret_digest = _digest(viewer_pass)
        invitation.expires_at = self._clock() + self.pass_ttl_s
        return invitation, SecretStr(viewer_pass)

    def show_pass(self, page: str, viewer_pass: str | None) -> Invitation:
        """The invitation that the pass belongs to.

        Raises:
            InvitationExpired: the pass has expired.
            UnknownInvitation: no such page, or not its pass.
        """
        invitation = self._current(page)
        if viewer_pass is None or not self.is_pass(page, viewer_pass):
            raise UnknownInvitation("This page needs an invitation: open the link you were given.")
        return invitation

    def is_pass(self, page: str, viewer_pass: str) -> bool:
        """Whether the pass opens the page now."""
        invitation = self._by_page.get(page)
        return (
            invitation is not None
            and invitation.state is InvitationState.USED
            and self._clock() < invitation.expires_at
            and hmac.compare_digest(invitation.secret_digest, _digest(viewer_pass))
        )

    def _current(self, page: str) -> Invitation:
        """The invitation of a page, unless it is unknown or expired."""
        invitation = self._by_page.get(page)
        if invitation is None:
            raise UnknownInvitation("This link is not known here. Ask for a new one.")
        expired = invitation.state is InvitationState.EXPIRED
        if not expired and self._clock() >= invitation.expires_at:
            invitation.become(InvitationState.EXPIRED)
            expired = True
        if expired:
            raise InvitationExpired("This link has expired. Ask for a new one.")
        return invitation


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
