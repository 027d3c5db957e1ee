"""The simulator's account of what it was asked to do, as ``GET /simulator/ledger`` shows it.

It is what a test believes about billing. It holds no token, no ``ws_url`` and no audio.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel

RoomKind = Literal["hosted", "own", "none"]


class CommandLine(BaseModel):
    """One WebSocket command as it arrived. ``at_ms`` counts from the start of the session."""

    type: str
    at_ms: int
    socket: int
    """Which of the session's sockets brought it, from 1."""
    event_id: str | None = None
    pcm_ms: float | None = None


class SilenceLine(BaseModel):
    """A time inside an utterance, of 50 ms or more, in which there was no audio to sound.

    ``at_ms`` counts from the utterance's first sound. One that lasts until the utterance is over
    (its end came late, or never) begins at ``ended_at``.
    """

    at_ms: float
    duration_ms: float


class UtteranceLine(BaseModel):
    """One utterance: how much of it was sent, how much was heard and when, and how it went."""

    event_id: str | None
    sent_ms: float
    played_ms: float
    outcome: Literal["waiting", "playing", "starved", "played", "interrupted", "dropped", "cut"]
    """``dropped``: cleared before it was heard; ``cut``: the session ended first."""
    began_at: datetime | None
    """When its first sound was heard."""
    ended_at: datetime | None
    """When its last sound had been heard; None before it is over, and if nothing was heard."""
    silences: list[SilenceLine]
    """Those that are over, the newest 100."""


class SocketLine(BaseModel):
    """One media socket."""

    number: int
    opened_at: datetime
    closed_at: datetime | None


class SessionLine(BaseModel):
    """One session, from minting on."""

    session_id: str
    avatar_id: str
    is_sandbox: bool
    minted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    billed_s: float
    """Seconds between start and end (so far); 0 in the sandbox."""
    credits_consumed: Decimal
    sockets_open: int
    sockets_total: int
    sockets: list[SocketLine]
    """The newest 200, oldest first."""
    room: str | None
    room_kind: RoomKind
    commands: list[CommandLine]
    """The newest ones, up to `SimulatorSettings.tape_length`."""
    commands_ignored: int
    """Sent before the session was connected: dropped without a word, as the real service does."""
    utterances: list[UtteranceLine]


class BillingLedger(BaseModel):
    """Totals since the simulator began, and its sessions, oldest first."""

    minted: int
    started: int
    stopped: int
    """Started sessions that have ended, whatever the reason."""
    open: int
    """Started sessions that have not ended: what would be billed now."""
    peak_open: int
    """The largest ``open`` there ever was."""
    sessions: list[SessionLine]
