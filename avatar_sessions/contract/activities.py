"""Inputs and results of the activities. Not for backends: they may change with a release.

Timestamps are by the workers' clocks. Secrets are encrypted with a seal key. No I/O.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from avatar_sessions.contract.messages import Clip, Sealed, SessionRequest
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import CommandOutcome, Pose

Epoch = tuple[int, int]
"""(number of the stream activity, assigned by the workflow; its attempt). Epochs of a generation
only grow. A next generation's may be lower than that of an owner that was replaced while the next
generation was ready."""


class ActivityPayload(BaseModel):
    """Input or result of an activity."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class CreateRoom(ActivityPayload):
    """Create a room on the workers' LiveKit server, and the avatar's token for it."""

    session_key: str
    """The session's key."""
    room: str
    """The room's name."""
    avatar_identity: str
    """The identity under which the avatar joins."""
    max_duration_s: float
    """How long the avatar's token must be valid."""


class CreatedRoom(ActivityPayload):
    """The room, and how LiveAvatar joins it."""

    room: str
    """The room's name."""
    livekit_url: str
    """The LiveKit server."""
    avatar_token: Sealed
    """The avatar's LiveKit token, encrypted."""


class MintToken(ActivityPayload):
    """Create a LiveAvatar session; nothing is billed yet."""

    request: SessionRequest
    """What to start."""
    room: CreatedRoom | None = None
    """The room to use. None: LiveAvatar hosts one."""


class MintedSession(ActivityPayload):
    """A LiveAvatar session that exists and is not billed yet."""

    provider_session_id: str
    """LiveAvatar's id of it."""
    session_token: Sealed
    """The token that starts it, encrypted."""


class StartSession(ActivityPayload):
    """Start a LiveAvatar session; billing begins."""

    provider_session_id: str
    """LiveAvatar's id of it."""
    session_token: Sealed
    """The token that starts it, encrypted."""
    after_s: float = 0.0
    """How long to wait before the call, as LiveAvatar requested."""
    patience_s: float = 0.0
    """How long to repeat the call while LiveAvatar has no free session, or limits the rate."""


class SessionStarted(ActivityPayload):
    """A billed LiveAvatar session."""

    provider_session_id: str
    """LiveAvatar's id of it."""
    started_at: datetime
    """When the request that begins billing was sent."""
    ws_url: Sealed
    """The address of its media WebSocket, encrypted."""
    livekit_url: str | None = None
    """The LiveKit server of a hosted room."""
    viewer_token: Sealed | None = None
    """The viewer's token for a hosted room, encrypted."""
    agent_token: Sealed | None = None
    """The agent's token for a hosted room, encrypted."""
    max_duration_s: float | None = None
    """The limit that LiveAvatar applies."""


class StreamAudio(ActivityPayload):
    """Own a session: keep its WebSocket open until the session ends."""

    session_key: str
    """The session's key."""
    provider_session_id: str
    """LiveAvatar's id of the LiveAvatar session."""
    generation: int
    """The number of the LiveAvatar session."""
    stream: int
    """The number of this stream activity: the first half of the epoch."""
    ws_url: Sealed
    """The address of the media WebSocket, encrypted."""


class StreamEnd(StrEnum):
    """Why an owner released its session."""

    RELEASED = "released"  # the workflow requested it
    PROVIDER_CLOSED = "provider_closed"  # LiveAvatar closed the WebSocket or ended the session
    REPLACED = "replaced"  # another owner has the session; the result is discarded


class StreamResult(ActivityPayload):
    """How the ownership of a session ended."""

    end: StreamEnd
    """Why the owner released it."""
    close_code: int | None = None
    """The WebSocket close code, if LiveAvatar closed it."""
    provider_end_reason: str | None = None
    """Why LiveAvatar ended the session."""
    connects: int = 1
    """How many times the WebSocket was opened."""


class GrantedSpeaker(ActivityPayload):
    """A ticket for the owner's ingress."""

    ingress_url: str
    """The address of the ingress."""
    ticket: Sealed
    """The ticket, encrypted."""
    expires_at: datetime
    """When the ticket expires."""


class OwnerReady(ActivityPayload):
    """Signal: an owner is connected to the session and takes its commands on ``queue``."""

    queue: Annotated[str, StringConstraints(pattern=r"^avatar-owner:[0-9a-f]{12}$")]
    """The owner's private task queue."""
    epoch: Epoch
    """The owner."""
    provider_session_id: str
    """LiveAvatar's id of the session that it is connected to."""
    gap_ms: Annotated[int, Field(ge=0, le=86_400_000)] = 0
    """How long this owner was without the WebSocket, by its own clock."""
    speakers: bool = False
    """Whether it takes live speech."""
    speaker: GrantedSpeaker | None = None
    """A first ticket for its ingress, so that speakers who connect soon need no other request."""


class OwnerRecovering(ActivityPayload):
    """Signal: the owner lost LiveAvatar's WebSocket and is reconnecting."""

    epoch: Epoch
    """The owner."""
    leaving: bool = False
    """The owner drains instead, and another one takes over."""


class UtteranceLines(ActivityPayload):
    """Signal: live utterances that are over, batched by the owner."""

    epoch: Epoch
    """The owner."""
    utterances: Annotated[list[UtteranceReport], Field(max_length=200)] = []
    """The reports of utterances that are over."""
    unfinished: Annotated[list[UtteranceReport], Field(max_length=200)] = []
    """Utterances lost with this owner. The next owner may resume them and report them again."""
    pose: Pose | None = None
    """The pose that a speaker last requested in band, if one did."""


class GrantSpeaker(ActivityPayload):
    """Request a ticket for the owner's ingress."""

    session_key: str
    """The session's key."""
    epoch: Epoch
    """The owner that is asked; another one refuses."""


class DeliverCommand(ActivityPayload):
    """A command for the owner; a stale epoch is refused."""

    session_key: str
    """The session's key."""
    epoch: Epoch
    """The owner that the command is for."""
    command_id: str
    """The command's id."""
    kind: Literal[
        "interrupt", "set_pose", "keep_alive", "stop_feeding", "tell_idle", "retire", "hand_over"
    ]
    """Which command this is."""
    pose: Pose | None = None
    """set_pose: the pose."""
    up_to_order: int = 0
    """interrupt, stop_feeding: utterances up to this sequence number are dropped."""
    patience_s: float = 0.0
    """retire: how long the current utterance may take to finish."""
    delayed_s: float = 0.0
    """interrupt: how long it waited; live speech that began later is not cut."""


class CommandDelivered(ActivityPayload):
    """The owner's answer to a command."""

    outcome: CommandOutcome
    """The outcome of the command."""
    idle_s: float = 0.0
    """tell_idle: seconds since the last in-band message; 0 while a speaker speaks."""


class SpeakClip(ActivityPayload):
    """Play a clip: the activity lasts as long as the utterance."""

    session_key: str
    """The session's key."""
    epoch: Epoch
    """The owner that the clip is for."""
    utterance_id: str
    """The utterance's id."""
    order: int
    """Sequence number among the session's utterances, from 1."""
    clip: Clip
    """What to play."""
    offset_bytes: Annotated[int, Field(ge=0, multiple_of=2)] = 0
    """How much of it earlier owners have sent."""
    dry_at: datetime | None = None
    """With an offset: when the avatar runs, or ran, out of the audio it was sent."""


class ClipCursor(ActivityPayload):
    """The position in a clip: heartbeat details of ``speak``, read by the next owner."""

    generation: int
    """The number of the LiveAvatar session that plays the clip."""
    sent_bytes: Annotated[int, Field(ge=0, multiple_of=2)]
    """How much was sent to that LiveAvatar session, which plays it by itself."""
    heard_bytes: Annotated[int, Field(ge=0, multiple_of=2)]
    """How much of it was played."""
    dry_at: datetime
    """When the avatar will have played all that was sent."""


class ClipSpoken(ActivityPayload):
    """The result of playing a clip."""

    report: UtteranceReport
    """The utterance's report."""
    left_at: ClipCursor | None = None
    """Where the owner left it, if it released the session in mid-utterance; the next owner may
    resume there."""
    cut_in_band_at: datetime | None = None
    """When a speaker interrupted it in band, which also cuts speech requested before then."""


class GrantAccess(ActivityPayload):
    """Mint tokens for a room on the workers' LiveKit server."""

    session_key: str
    """The session's key."""
    room: str
    """The room's name."""
    viewer_identity: str
    """The viewer's identity."""
    agent_identity: str
    """The agent's identity."""
    valid_s: float
    """How long the tokens are valid."""


class GrantedAccess(ActivityPayload):
    """The tokens for a room on the workers' LiveKit server."""

    livekit_url: str
    """The LiveKit server."""
    viewer_token: Sealed
    """The viewer's token, encrypted."""
    agent_token: Sealed
    """The agent's token, encrypted."""


class StopSession(ActivityPayload):
    """Stop a LiveAvatar session."""

    provider_session_id: str
    """LiveAvatar's id of it."""
    reason: str
    """The reason that LiveAvatar records (its SessionEndReason)."""


class StoppedSession(ActivityPayload):
    """A LiveAvatar session that is confirmed to have ended."""

    stop: Literal["stopped", "already_gone"]
    """Whether this call ended it."""
    stopped_at: datetime
    """When the end was confirmed, by the worker's clock."""
    provider_end_reason: str | None = None
    """Why it ended, from LiveAvatar's session list."""
    credits_consumed: float | None = None
    """What it cost, from LiveAvatar's session list."""
    ended_at: datetime | None = None
    """When it ended, from LiveAvatar's session list. A session that is listed as ended cannot
    start any more."""
    ran_s: float | None = None
    """How long it ran, from LiveAvatar's session list; 0 if it is not listed; None: not known."""


class CleanRoom(ActivityPayload):
    """Delete a room, or remove the avatars from it."""

    room: str
    """The room's name."""
    avatar_identity: str
    """The identity of the current generation's avatar."""
    earlier: list[str] = []
    """The identities of earlier generations' avatars, which should have left."""
    delete: bool
    """Whether to delete the room."""


class CleanedRoom(ActivityPayload):
    """The result of cleaning a room."""

    result: Literal["gone", "left"]
    """``gone``: the room does not exist any more; ``left``: it does, without the avatar."""


class ErrorType(StrEnum):
    """Types of the application errors from activities that the workflow tells apart."""

    START_OUTCOME_UNKNOWN = "StartOutcomeUnknown"
    DISCONNECTED = "Disconnected"
    WORKER_DRAINING = "WorkerDraining"
    NOT_OWNER = "NotOwner"
    NO_INGRESS = "NoIngress"


class OwnerHeartbeat(ActivityPayload):
    """Heartbeat details of ``stream_audio``: shown by the Temporal UI, read by the next attempt."""

    epoch: Epoch
    """The owner."""
    queue: str
    """The owner's private task queue."""
    state: str
    """The state of the WebSocket. Never ``UNSUPERVISED``: no heartbeat arrives in that state."""
    speaking: str | None = None
    """The id of the utterance that is being spoken."""
    spoken_ms: int = 0
    """How much speech the avatar has played in all."""
    connects: int = 0
    """How many times the WebSocket was opened."""
