"""What a session answers: access, results of commands, status and report; plain JSON.

Readers ignore fields they do not know, so that fields can be added. What a backend sends is in
`messages`. No I/O.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from avatar_sessions.contract.messages import Sealed, Text
from avatar_sessions.contract.states import (
    CommandOutcome,
    EndReason,
    Pose,
    SessionState,
    UtteranceOutcome,
)


class Outgoing(BaseModel):
    """A message from a session: readers ignore fields they do not know yet."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class Failure(Outgoing):
    """Why something failed: a message for a person and a type for a program."""

    type: str
    """The error's class, such as ``NoCredits``, ``ServiceUnreachable`` or ``ClipTooLong``."""
    message: Text
    """The reason, as a sentence."""
    http_status: int | None = None
    """The HTTP status of LiveAvatar's answer, if there was one."""
    code: int | None = None
    """LiveAvatar's own error code."""


class RoomAccess(Outgoing):
    """What one participant needs to join the room."""

    livekit_url: str
    """The LiveKit server: ws:// or wss://."""
    sealed_token: Sealed
    """The LiveKit access token, encrypted with a seal key."""
    identity: str | None = None
    """The participant's identity, as far as it is known."""


class SpeakerAccess(Outgoing):
    """What a speaker needs to reach the session's owner (docs/reference/live-protocol.md)."""

    ingress_url: str
    """The address of the owner's ingress: ws:// or wss://."""
    sealed_ticket: Sealed
    """The ticket for the header ``Authorization: Bearer <ticket>``, encrypted with a seal key."""
    epoch: tuple[int, int]
    """The owner that accepts the ticket."""
    expires_at: datetime
    """When the ticket expires. An open connection may stay longer."""


class SealedAccess(Outgoing):
    """The answer to ``attach``."""

    session_key: str
    """The session's key."""
    state: SessionState
    """The session's state."""
    room: str | None = None
    """The room's name, if it is an ``OwnRoom``."""
    viewer: RoomAccess
    """Access for a browser that watches the avatar."""
    agent: RoomAccess | None = None
    """Access for a voice agent that hears the room. Not every room has it."""
    speaker: SpeakerAccess | None = None
    """Access for live speech, if it was requested and the owner takes live speech."""


Milliseconds = Annotated[int, Field(ge=0, le=10**10)]


class SpeechGap(Outgoing):
    """A silence inside an utterance, because the avatar had no audio to play."""

    at_ms: Milliseconds
    """How much of the utterance had been played when the silence began."""
    duration_ms: Milliseconds
    """How long the silence lasted."""


class UtteranceReport(Outgoing):
    """The outcome of one utterance, from LiveAvatar's events."""

    id: Annotated[str, StringConstraints(max_length=200)]
    """The utterance's id: the ``command_id`` of its ``speak``, or the speaker's."""
    outcome: UtteranceOutcome
    """How the utterance ended."""
    source: Literal["clip", "live"] = "clip"
    """Whether the speech came from a clip or from a speaker."""
    text: Text | None = None
    """The words of live speech, if its speaker sent them and the workers do not seal them."""
    sealed_text: Sealed | None = None
    """The words, encrypted, if the workers seal them (``AVATAR_SESSIONS_SEAL_TEXTS``)."""
    duration_ms: Milliseconds = 0
    """Length of the clip; of live speech, length of the speech received."""
    received_ms: Milliseconds = 0
    """Speech fetched and decoded, or received from a speaker."""
    sent_ms: Milliseconds = 0
    """Speech sent to LiveAvatar."""
    played_ms: Milliseconds = 0
    """How long the avatar talked, from LiveAvatar's event of the start to that of the end."""
    heard_ms: Milliseconds = 0
    """Speech that the avatar played."""
    gaps: list[SpeechGap] = Field(default_factory=list, max_length=100)
    """The silences inside the utterance; the first hundred."""
    owner: str | None = None
    """The task queue of the process that played it."""
    generation: int = 0
    """The number of the LiveAvatar session that played it."""
    first_audio_ms: Milliseconds | None = None
    """From the first chunk sent until LiveAvatar reported that the avatar talks."""
    started_at: datetime | None = None
    """When the owner began the utterance."""
    ended_at: datetime | None = None
    """When the utterance was over."""
    failure: Failure | None = None
    """Why it was rejected or lost."""


class UtteranceTotals(Outgoing):
    """The totals of a session's utterances."""

    count: int = 0
    """How many are over."""
    by_outcome: dict[UtteranceOutcome, int] = Field(default_factory=dict)
    """How many had each outcome."""
    sent_ms: int = 0
    """Speech sent to LiveAvatar."""
    heard_ms: int = 0
    """Speech that the avatar played."""


class CommandResult(Outgoing):
    """The answer to ``perform``, once the command is on the wire or the utterance is over."""

    command_id: str
    """The command's id."""
    kind: str
    """Which command it was."""
    outcome: CommandOutcome | UtteranceOutcome
    """The outcome of the command, or of its utterance."""
    utterance: UtteranceReport | None = None
    """The utterance's report, for ``speak``."""


class SessionStatus(Outgoing):
    """The answer to the query ``status``."""

    session_key: str
    """The session's key."""
    state: SessionState
    """The session's state."""
    end_reason: EndReason | None = None
    """Why the session ends or has ended."""
    failure: Failure | None = None
    """The failure that ended the session."""
    provider_session_id: str | None = None
    """The id of the current LiveAvatar session."""
    generation: int = 0
    """The number of the current LiveAvatar session, from 1."""
    epoch: tuple[int, int] | None = None
    """The current owner."""
    requested_at: datetime
    """When the session was requested."""
    live_at: datetime | None = None
    """When the avatar was first live."""
    ends_at: datetime | None = None
    """When the duration limit will end the session."""
    speaking: str | None = None
    """The id of the utterance that is being spoken."""
    pose: Pose = Pose.IDLE
    """The pose that was last requested."""
    waiting_commands: int = 0
    """How many commands wait for the avatar."""
    utterances: int = 0
    """How many utterances are over."""
    totals: UtteranceTotals = Field(default_factory=UtteranceTotals)
    """The totals of the utterances that are over."""
    latest_utterances: list[UtteranceReport] = Field(default_factory=list)
    """The latest utterances that are over, oldest first. Live speech appears up to 5 s late."""
    ignored_messages: int = 0
    """How many messages could not be understood."""
    waiting_for: str | None = None
    """What the start waits for: a free LiveAvatar session, or LiveAvatar's rate limit."""
    waiting_since: datetime | None = None
    """Since when the start waits."""
    alert: str | None = None
    """What an operator must look at; the value of the search attribute ``AvatarAlert``."""


class GenerationReport(Outgoing):
    """One LiveAvatar session: the unit that LiveAvatar bills."""

    number: int
    """Its number within the session, from 1."""
    provider_session_id: str
    """LiveAvatar's id of it."""
    started_at: datetime | None = None
    """When the request that begins billing was sent. None: it was not sent."""
    stopped_at: datetime | None = None
    """When it ended, from LiveAvatar's session list; else, when its end was confirmed."""
    billed_s: float = 0.0
    """How long it ran, from LiveAvatar's session list. Without an entry there: an upper bound, from
    the request that begins billing to the confirmed stop, by the workers' clock."""
    stop: Literal["stopped", "already_gone", "unconfirmed", "not_needed"] = "not_needed"
    """The result of stopping it. ``unconfirmed``: it may still be billed."""
    provider_end_reason: str | None = None
    """Why LiveAvatar ended it, from its session list."""
    credits_consumed: float | None = None
    """What it cost, from LiveAvatar's session list."""


class IgnoredMessage(Outgoing):
    """A message that could not be understood. It is recorded and has no other effect."""

    name: str
    """The signal's name."""
    problem: str
    """What is wrong with it, without its values."""
    at: datetime
    """When it arrived."""


class CleanupReport(Outgoing):
    """The result of the cleanup. Nothing is left behind if both flags are true."""

    provider_stopped: bool = True
    """Whether every LiveAvatar session is confirmed to have ended."""
    room_clean: bool = True
    """Whether the room is deleted, or the avatar has left it."""
    problems: list[str] = Field(default_factory=list)
    """What failed, one sentence each."""
    alert: str | None = None
    """What an operator must still look at, as in ``AvatarAlert``. None: nothing."""


class SessionReport(Outgoing):
    """The workflow's result: what happened and what it cost."""

    session_key: str
    """The session's key."""
    workflow_id: str
    """The id of the session's workflow."""
    run_id: str
    """The id of the workflow's run."""
    state: SessionState
    """``ENDED`` or ``FAILED``."""
    end_reason: EndReason
    """Why the session ended."""
    failure: Failure | None = None
    """The failure that ended the session."""
    requested_at: datetime
    """When the session was requested."""
    live_at: datetime | None = None
    """When the avatar was first live."""
    ended_at: datetime
    """When the cleanup was done."""
    start_ms: int | None = None
    """From the request until the avatar was live."""
    live_ms: int = 0
    """From the first LIVE until the last LiveAvatar session was stopped."""
    generations: list[GenerationReport] = Field(default_factory=list)
    """The LiveAvatar sessions that were opened."""
    utterances: list[UtteranceReport] = Field(default_factory=list)
    """The first 500 utterances, in the order in which they were over; ``totals`` counts all."""
    totals: UtteranceTotals = Field(default_factory=UtteranceTotals)
    """The totals of all utterances."""
    takeovers: int = 0
    """How many times another owner, or another attempt of the same owner, took over."""
    reconnects: int = 0
    """How many times the owner reopened a WebSocket that was lost."""
    gaps_ms: int = 0
    """Time between the first LIVE and the end in which no owner was connected."""
    ignored: list[IgnoredMessage] = Field(default_factory=list)
    """The first 50 messages that could not be understood."""
    ignored_count: int = 0
    """How many messages could not be understood."""
    cleanup: CleanupReport = Field(default_factory=CleanupReport)
    """The result of the cleanup."""
