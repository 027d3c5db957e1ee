"""Access to a session, opened: what a browser, an agent or a speaker joins with.

The answer crosses Temporal sealed (:class:`avatar_sessions.contract.messages.Access`) and is
opened here, in the backend's memory. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from avatar_sessions.contract import messages
from avatar_sessions.contract.states import SessionState
from avatar_sessions.errors import SealMismatch
from avatar_sessions.seal import Seal, SealError


@dataclass(frozen=True, slots=True)
class ParticipantAccess:
    """What one participant joins the LiveKit room with. Its repr keeps the token to itself."""

    livekit_url: str
    token: str = field(repr=False)
    """LiveKit access token: whoever has it is in the room. Hand it out over TLS, never in a URL."""
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class SpeakerTicket:
    """What sends live speech to the session's owner. Its repr keeps the ticket to itself."""

    ingress_url: str
    """Where the owner listens: ws:// or wss://."""
    ticket: str = field(repr=False)
    """Whoever has it speaks. It goes into the header ``Authorization: Bearer <ticket>``."""
    epoch: tuple[int, int]
    """The owner it is for; another one refuses it."""
    expires_at: datetime
    """A connection must be opened by then; one that is open may stay."""


@dataclass(frozen=True, slots=True)
class Access:
    """Access to a live session: its room, and its owner's ear."""

    session_key: str
    state: SessionState
    viewer: ParticipantAccess
    agent: ParticipantAccess | None = None
    """For a voice agent that hears the room; not every room gives one."""
    room: str | None = None
    """The room's name, when it is our own."""
    speaker: SpeakerTicket | None = None
    """For live speech, if it was asked for and the owner takes it."""


def opened(access: messages.SealedAccess, seal: Seal) -> Access:
    """Open the tokens of an answer to ``attach``.

    Raises:
        SealMismatch: they were sealed with a key that is not among ours.
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


def _participant(sealed: messages.RoomAccess, seal: Seal) -> ParticipantAccess:
    token = seal.open(sealed.sealed_token).get_secret_value()
    return ParticipantAccess(sealed.livekit_url, token, sealed.identity)


def _speaker(sealed: messages.SpeakerAccess, seal: Seal) -> SpeakerTicket:
    ticket = seal.open(sealed.sealed_ticket).get_secret_value()
    return SpeakerTicket(sealed.ingress_url, ticket, sealed.epoch, sealed.expires_at)
