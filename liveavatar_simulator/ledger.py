"""The ledger of ``GET /simulator/ledger``: sessions, billing, sockets, commands, utterances.

Tests take it as the truth about billing. It holds no token, no ``ws_url`` and no audio.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel

RoomKind = Literal["hosted", "own", "none"]


class CommandLine(BaseModel):
    """One WebSocket command as it arrived. ``at_ms`` counts from the session's start."""

    type: str
    at_ms: int
    socket: int
    """The number of the session's socket that it came on, from 1."""
    event_id: str | None = None
    pcm_ms: float | None = None


class SilenceLine(BaseModel):
    """A time of 50 ms or more within an utterance in which there was no audio to play.

    ``at_ms`` counts from the utterance's first sound. A silence up to the utterance's end (which
    came late, or never) begins at ``ended_at``.
    """

    at_ms: float
    duration_ms: float


class UtteranceLine(BaseModel):
    """One utterance: how much was sent and played, when, and its outcome."""

    event_id: str | None
    sent_ms: float
    played_ms: float
    outcome: Literal["waiting", "playing", "starved", "played", "interrupted", "dropped", "cut"]
    """``dropped``: cleared before any of it was played; ``cut``: the session ended first."""
    began_at: datetime | None
    """When its first sound was played."""
    ended_at: datetime | None
    """When its last sound had been played; None before the end, and if nothing was played."""
    silences: list[SilenceLine]
    """The newest 100 silences that have ended."""


class SocketLine(BaseModel):
    """One media socket."""

    number: int
    opened_at: datetime
    closed_at: datetime | None


class SessionLine(BaseModel):
    """One session, from the time it was minted."""

    session_id: str
    avatar_id: str
    is_sandbox: bool
    minted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    billed_s: float
    """Seconds from start to end, or to now; 0 in the sandbox."""
    credits_consumed: Decimal
    sockets_open: int
    sockets_total: int
    sockets: list[SocketLine]
    """The newest 200, oldest first."""
    room: str | None
    room_kind: RoomKind
    commands: list[CommandLine]
    """The newest `SimulatorSettings.tape_length` commands."""
    commands_ignored: int
    """Commands sent before the session was connected: dropped silently, as LiveAvatar does."""
    utterances: list[UtteranceLine]


class BillingLedger(BaseModel):
    """Totals since the simulator started, and its sessions, oldest first."""

    minted: int
    started: int
    stopped: int
    """Started sessions that have ended, whatever the reason."""
    open: int
    """Started sessions that have not ended: those that are being billed."""
    peak_open: int
    """The largest ``open`` so far."""
    sessions: list[SessionLine]
