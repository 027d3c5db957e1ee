"""Access to a session: what a browser, an agent or a speaker connects with.

The tokens cross Temporal encrypted (:class:`~avatar_sessions.contract.reports.SealedAccess`) and
are decrypted here, in the memory of the backend. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from avatar_sessions.contract import reports
from avatar_sessions.contract.states import SessionState
from avatar_sessions.errors import SealMismatch
from avatar_sessions.seal import Seal, SealError


@dataclass(frozen=True, slots=True)
class ParticipantAccess:
    """What one participant joins the LiveKit room with. Its repr does not show the token."""

    livekit_url: str
    """The LiveKit server: ws:// or wss://."""
    token: str = field(repr=False)
    """The LiveKit access token. Its holder can join the room: send it over TLS, never in a URL."""
    identity: str | None = None
    """The participant's identity, as far as it is known."""


@dataclass(frozen=True, slots=True)
class SpeakerTicket:
    """What a speaker connects to the owner's ingress with. Its repr does not show the ticket."""

    ingress_url: str
    """The address of the ingress: ws:// or wss://."""
    ticket: str = field(repr=False)
    """The ticket for the header ``Authorization: Bearer <ticket>``. Its holder can speak."""
    epoch: tuple[int, int]
    """The owner that accepts the ticket."""
    expires_at: datetime
    """When the ticket expires. An open connection may stay longer."""


@dataclass(frozen=True, slots=True)
class Access:
    """Access to a live session: to its room, and to its owner's ingress."""

    session_key: str
    """The session's key."""
    state: SessionState
    """The session's state."""
    viewer: ParticipantAccess
    """Access for a browser that watches the avatar."""
    agent: ParticipantAccess | None = None
    """Access for a voice agent that hears the room. Not every room has it."""
    room: str | None = None
    """The room's name, if it is an ``OwnRoom``."""
    speaker: SpeakerTicket | None = None
    """Access for live speech, if it was requested and the owner takes live speech."""


def opened(access: reports.SealedAccess, seal: Seal) -> Access:
    """Decrypt the tokens of an answer to ``attach``.

    Raises:
        SealMismatch: they were encrypted with a key that the client does not have.
    """
    agent, speaker = access.agent, access.speaker
    try:
        return Access(
            session_key=access.session_key,
            state=access.state,
            viewer=_participant(access.viewer, seal),
            agent=None if agent is None else _participant(agent, seal),
            room=access.room,
            speaker=None if speaker is None else _speaker(speaker, seal),
        )
    except SealError as error:
        raise SealMismatch(str(error)) from None


def _participant(sealed: reports.RoomAccess, seal: Seal) -> ParticipantAccess:
    token = seal.open(sealed.sealed_token).get_secret_value()
    return ParticipantAccess(sealed.livekit_url, token, sealed.identity)


def _speaker(sealed: reports.SpeakerAccess, seal: Seal) -> SpeakerTicket:
    ticket = seal.open(sealed.sealed_ticket).get_secret_value()
    return SpeakerTicket(sealed.ingress_url, ticket, sealed.epoch, sealed.expires_at)
