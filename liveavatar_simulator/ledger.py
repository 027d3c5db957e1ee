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
    event_id: str | None = None
    pcm_ms: float | None = None


class UtteranceLine(BaseModel):
    """One utterance: how much of it was sent, how much was heard, and how it went."""

    event_id: str | None
    sent_ms: float
    played_ms: float
    outcome: Literal["waiting", "playing", "starved", "played", "interrupted", "dropped", "cut"]
    """``dropped``: cleared before it was heard; ``cut``: the session ended first."""


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
    room: str | None
    room_kind: RoomKind
    commands: list[CommandLine]
    """The newest ones, up to `SimulatorSettings.tape_length`."""
    commands_ignored: int
    """Sent before the session was connected: dropped without a word, as the real service does."""
    utterances: list[UtteranceLine]


class Ledger(BaseModel):
    """Totals since the simulator began, and its sessions, oldest first."""

    minted: int
    started: int
    stopped: int
    """Started sessions that have ended, whatever the reason."""
    open: int
    """Started sessions that have not ended: what would be billed now."""
    sessions: list[SessionLine]
