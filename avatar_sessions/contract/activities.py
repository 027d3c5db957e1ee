"""What workflow and activities say to each other. Not for backends: may change with a release.

Times in history are the workers' own; secrets cross sealed. No I/O.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from avatar_sessions.contract.messages import Clip, Sealed, SessionRequest, UtteranceReport
from avatar_sessions.contract.states import CommandOutcome, Pose

Epoch = tuple[int, int]
"""(number of the stream activity, given by the workflow; its attempt). Only grows, but for a next
generation's: it may be earlier than that of an owner replaced while the next one stood ready."""


class ActivityPayload(BaseModel):
    """Input or result of an activity."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class CreateRoom(ActivityPayload):
    """Make a room of our own and the avatar's token for it."""

    session_key: str
    room: str
    avatar_identity: str
    max_duration_s: float


class CreatedRoom(ActivityPayload):
    room: str
    livekit_url: str
    avatar_token: Sealed


class MintToken(ActivityPayload):
    request: SessionRequest
    room: CreatedRoom | None = None


class MintedSession(ActivityPayload):
    """A LiveAvatar session that exists and is not billed yet."""

    provider_session_id: str
    session_token: Sealed


class StartSession(ActivityPayload):
    provider_session_id: str
    session_token: Sealed
    after_s: float = 0.0
    """Wait so long before asking: LiveAvatar said that later is better."""
    patience_s: float = 0.0
    """Ask again for so long while LiveAvatar has no free session, or too many calls to answer."""


class SessionStarted(ActivityPayload):
    """A billed LiveAvatar session."""

    provider_session_id: str
    started_at: datetime
    ws_url: Sealed
    livekit_url: str | None = None
    viewer_token: Sealed | None = None
    agent_token: Sealed | None = None
    max_duration_s: float | None = None
    """The limit LiveAvatar itself will apply."""


class StreamAudio(ActivityPayload):
    """Own a session: hold its WebSocket until it ends."""

    session_key: str
    provider_session_id: str
    generation: int
    stream: int
    """First half of the epoch."""
    ws_url: Sealed


class StreamEnd(StrEnum):
    RELEASED = "released"  # the workflow asked for it
    PROVIDER_CLOSED = "provider_closed"  # LiveAvatar closed the socket or ended the session
    REPLACED = "replaced"  # another owner holds the session; nobody waits for this result


class StreamResult(ActivityPayload):
    end: StreamEnd
    close_code: int | None = None
    provider_end_reason: str | None = None
    connects: int = 1


class GrantedSpeaker(ActivityPayload):
    ingress_url: str
    ticket: Sealed
    expires_at: datetime


class OwnerReady(ActivityPayload):
    """Signal: an owner has the session connected and takes its commands on ``queue``."""

    queue: Annotated[str, StringConstraints(pattern=r"^avatar-owner:[0-9a-f]{12}$")]
    epoch: Epoch
    provider_session_id: str
    gap_ms: Annotated[int, Field(ge=0, le=86_400_000)] = 0
    """How long this owner was without the socket, by its own clock."""
    speakers: bool = False
    """Whether it takes live speech."""
    speaker: GrantedSpeaker | None = None
    """A first ticket to its ingress, so that nobody who comes soon has to ask it for one."""


class OwnerRecovering(ActivityPayload):
    """Signal: the owner lost the provider's socket and is getting it back."""

    epoch: Epoch
    leaving: bool = False
    """It is going away instead: another one is on its way."""


class UtteranceLines(ActivityPayload):
    """Signal: live utterances that are over; batched by the owner."""

    epoch: Epoch
    utterances: Annotated[list[UtteranceReport], Field(max_length=200)] = []
    unfinished: Annotated[list[UtteranceReport], Field(max_length=200)] = []
    """Lost with this owner; the next one may go on with them, and tell their line anew."""
    pose: Pose | None = None
    """What a speaker last asked for in band; None: nobody did."""


class GrantSpeaker(ActivityPayload):
    """Ask the owner for a ticket to its ingress."""

    session_key: str
    epoch: Epoch


class DeliverCommand(ActivityPayload):
    """A command for the owner's inbox; a stale epoch is refused."""

    session_key: str
    epoch: Epoch
    command_id: str
    kind: Literal[
        "interrupt", "set_pose", "keep_alive", "stop_feeding", "tell_idle", "retire", "hand_over"
    ]
    pose: Pose | None = None
    up_to_order: int = 0
    """interrupt, stop_feeding: utterances of this order and below are dropped."""
    patience_s: float = 0.0
    """retire: how long an utterance that is being said may take to its end."""
    delayed_s: float = 0.0
    """interrupt: for how long it waited; live speech that began later is not meant."""


class CommandDelivered(ActivityPayload):
    outcome: CommandOutcome
    idle_s: float = 0.0
    """tell_idle: for how long nobody has asked anything in band; 0 while somebody speaks."""


class SpeakClip(ActivityPayload):
    """An utterance as an activity: it lasts as long as the avatar speaks."""

    session_key: str
    epoch: Epoch
    utterance_id: str
    order: int
    """Position among the session's utterances, from 1."""
    clip: Clip
    offset_bytes: Annotated[int, Field(ge=0, multiple_of=2)] = 0
    """What an owner before this one has said of it."""
    dry_at: datetime | None = None
    """With an offset: when the avatar ran, or runs, out of what it was given."""


class ClipCursor(ActivityPayload):
    """How far a clip has come: heartbeat details of ``speak``, for the next owner."""

    generation: int
    sent_bytes: Annotated[int, Field(ge=0, multiple_of=2)]
    """On the wire to that generation's LiveAvatar session, which plays it by itself."""
    heard_bytes: Annotated[int, Field(ge=0, multiple_of=2)]
    dry_at: datetime
    """When the avatar will have played all that was sent."""


class ClipSpoken(ActivityPayload):
    """What became of a clip."""

    report: UtteranceReport
    left_at: ClipCursor | None = None
    """The owner let go of the session in the middle: the next one may go on from here."""
    cut_in_band_at: datetime | None = None
    """A speaker interrupted it past the workflow: what was asked for before that is meant, too."""


class GrantAccess(ActivityPayload):
    """Mint tokens for a room of our own."""

    session_key: str
    room: str
    viewer_identity: str
    agent_identity: str
    valid_s: float


class GrantedAccess(ActivityPayload):
    livekit_url: str
    viewer_token: Sealed
    agent_token: Sealed


class StopSession(ActivityPayload):
    provider_session_id: str
    reason: str
    """LiveAvatar's SessionEndReason."""


class StoppedSession(ActivityPayload):
    stop: Literal["stopped", "already_gone"]
    stopped_at: datetime
    """When it was confirmed, by the worker's clock."""
    provider_end_reason: str | None = None
    credits_consumed: float | None = None
    ended_at: datetime | None = None
    """When it ended by LiveAvatar's books: then it cannot begin any more."""
    ran_s: float | None = None
    """How long it ran by LiveAvatar's books, 0 if they have never heard of it; None: not known."""


class CleanRoom(ActivityPayload):
    room: str
    avatar_identity: str
    earlier: list[str] = []
    """Avatars of earlier generations, which should be gone."""
    delete: bool


class CleanedRoom(ActivityPayload):
    """``gone``: the room does not exist any more; ``left``: it does, without the avatar."""

    result: Literal["gone", "left"]


class ErrorType(StrEnum):
    """Types of the application errors that activities raise and the workflow tells apart."""

    START_OUTCOME_UNKNOWN = "StartOutcomeUnknown"
    DISCONNECTED = "Disconnected"
    WORKER_DRAINING = "WorkerDraining"
    NOT_OWNER = "NotOwner"
    NO_INGRESS = "NoIngress"


class OwnerHeartbeat(ActivityPayload):
    """Heartbeat details of ``stream_audio``: shown by the Temporal UI, read by the next attempt."""

    epoch: Epoch
    queue: str
    state: str
    """Of the socket; ``UNSUPERVISED`` never stands here, for then no heartbeat arrives."""
    speaking: str | None = None
    spoken_ms: int = 0
    connects: int = 0
