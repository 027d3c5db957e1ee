"""Tickets to the ingress: permission to speak in one session, for a limited time.

A ticket is signed with a key that only the issuing process has, so that no ticket is stored: it
becomes invalid with the process, as its sessions do. No I/O.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import SecretStr

from avatar_sessions.contract.activities import Epoch

_KEY_BYTES: Final = 32
_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class TicketRefused(Exception):
    """A ticket is not valid. The text is for its bearer and holds no secret."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The content of a valid ticket."""

    session_key: str
    epoch: Epoch


class Tickets:
    """Issues and checks the tickets of one process."""

    def __init__(self, ttl_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Issue tickets that are valid for ``ttl_s`` seconds of a clock that cannot jump."""
        self._key = secrets.token_bytes(_KEY_BYTES)
        self._ttl_s = ttl_s
        self._clock = clock

    def issue(self, session_key: str, epoch: Epoch) -> tuple[SecretStr, datetime]:
        """A ticket for one session and one epoch of its owner, and its time of expiry."""
        expires_at_s = self._clock() + self._ttl_s
        payload = json.dumps([session_key, *epoch, expires_at_s], separators=(",", ":")).encode()
        ticket = base64.urlsafe_b64encode(self._signature(payload) + payload).rstrip(b"=").decode()
        return SecretStr(ticket), datetime.now(UTC) + timedelta(seconds=self._ttl_s)

    def check(self, ticket: str) -> Ticket:
        """Read a ticket; its signature is compared in constant time.

        Raises:
            TicketRefused: this process did not issue it, or it has expired.
        """
        try:
            signed = base64.b64decode(ticket + "=" * (-len(ticket) % 4), b"-_", validate=True)
        except ValueError:
            signed = b""
        signature, payload = signed[:_DIGEST_BYTES], signed[_DIGEST_BYTES:]
        if not hmac.compare_digest(signature, self._signature(payload)):
            raise TicketRefused("this ticket was not issued here: attach again")
        session_key, stream, attempt, expires_at_s = json.loads(payload)
        if self._clock() >= expires_at_s:
            raise TicketRefused("this ticket has expired: attach again")
        return Ticket(session_key, (stream, attempt))

    def _signature(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, "sha256")
