"""What a backend sends to a session and gets back: one model a message, plain JSON.

Models that come in forbid unknown fields, so that a misspelt setting is an
error and not a silent default; models that go out may grow. No I/O.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from avatar_sessions.contract.states import (
    CommandOutcome,
    EndReason,
    Pose,
    SessionState,
    UtteranceOutcome,
)

Sealed = Annotated[str, StringConstraints(pattern=r"^gAAAA", max_length=16_384)]
"""A secret as a Fernet token: readable by whoever holds a seal key, by nobody else."""

CommandId = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:@/+=-]+$")
]

MAX_CLIP_S = 600.0
MAX_TEXT_CHARS = 1000
MAX_TOLD_PROBLEMS = 10
Text = Annotated[str, AfterValidator(lambda text: text[:MAX_TEXT_CHARS])]
"""Words for a person, cut to a length that cannot fill a history."""
DEFAULT_COMMAND_TTL_S = 30.0


class Incoming(BaseModel):
    """A message to a session."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Outgoing(BaseModel):
    """A message from a session: readers ignore fields they do not know yet."""

    model_config = ConfigDict(extra="ignore", frozen=True)


# ---------------------------------------------------------------- starting


class Video(Incoming):
    """How the avatar's video is made (LITE ``video_settings``)."""

    quality: Literal["very_high", "high", "medium", "low"] = "high"
    """1080p, 720p, 480p, 360p; more pixels, more latency."""
    encoding: Literal["VP8", "H264"] = "H264"


class OwnRoom(Incoming):
    """A room on our own LiveKit server instead of one hosted by LiveAvatar."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    """Defaults to a name unique to the session's run."""
    avatar_identity: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "avatar"
    delete_at_end: bool = True
    """False: the room is somebody else's, only the avatar leaves it."""


class SessionRequest(Incoming):
    """Everything a session is started with."""

    avatar_id: UUID
    sandbox: bool = False
    """Free, about a minute long, avatar Wayne only."""
    max_duration_s: int | None = Field(default=None, ge=10, le=24 * 3600)
    """The session's own limit. None: the plan's limit, or the sandbox's."""
    idle_timeout_s: float = Field(default=300.0, ge=1, le=24 * 3600)
    """Ends the session when nobody has asked anything of it for so long."""
    start_timeout_s: float = Field(default=60.0, ge=0.5, le=600)
    """How long it may take from the request until the avatar is live."""
    command_ttl_s: float = Field(default=DEFAULT_COMMAND_TTL_S, gt=0, le=3600)
    """How long a command may wait for the avatar before it expires."""
    video: Video | None = None
    room: OwnRoom | None = None
    """None: LiveAvatar hosts the room."""
    tenant: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    """Search attribute ``AvatarTenant``."""
    rotate: bool = True
    """Go on with a new LiveAvatar session before LiveAvatar's own limit ends one, as long as
    ``max_duration_s`` allows. False: its limit ends the session."""
    resume: Literal["resume", "drop"] = "resume"
    """What becomes of a clip whose owner was lost in the middle: the next one goes on with it, or
    drops it as ``lost``."""


# ---------------------------------------------------------------- commands


class Clip(Incoming):
    """Speech to be fetched and decoded by the session's owner: exactly one source."""

    url: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """http or https. Stands in history as it is: use ``sealed_url`` for signed addresses."""
    sealed_url: Sealed | None = None
    file: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = None
    """Path relative to the workers' clip folder (``AVATAR_SESSIONS_CLIP_FOLDER``)."""

    @field_validator("url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is not None and not url.lower().startswith(("http://", "https://")):
            raise ValueError("a clip's url begins with http:// or https://; a file has `file`")
        return url

    @model_validator(mode="after")
    def _one_source(self) -> Clip:
        if sum(source is not None for source in (self.url, self.sealed_url, self.file)) != 1:
            raise ValueError("a clip has exactly one of url, sealed_url and file")
        return self


class CommandBase(Incoming):
    """What every command carries."""

    command_id: CommandId | None = None
    """Repeats under one id are one command. None: a new one each time."""
    ttl_s: float | None = Field(default=None, gt=0, le=3600)
    """Overrides the session's ``command_ttl_s``."""


class Speak(CommandBase):
    """Say a clip, after everything asked before it."""

    kind: Literal["speak"] = "speak"
    clip: Clip


class Interrupt(CommandBase):
    """Fall silent now; speech asked for earlier and not yet heard is dropped."""

    kind: Literal["interrupt"] = "interrupt"


class SetPose(CommandBase):
    """Look attentive, or idle."""

    kind: Literal["set_pose"] = "set_pose"
    pose: Pose


class KeepAlive(CommandBase):
    """Restart the idle clocks, ours and LiveAvatar's."""

    kind: Literal["keep_alive"] = "keep_alive"


class End(CommandBase):
    """End the session."""

    kind: Literal["end"] = "end"
    finish_speaking: bool = False
    """Let what was asked before be heard first; without it the avatar is cut mid-word."""


Command = Annotated[Speak | Interrupt | SetPose | KeepAlive | End, Field(discriminator="kind")]
COMMAND: TypeAdapter[Command] = TypeAdapter(Command)


class Attach(Incoming):
    """Ask for access to the room; answered once the avatar is live."""

    viewer_identity: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    """A name for this viewer in a room of our own. A hosted room gives one fixed identity."""
    speaker: bool = False
    """Also ask for a ticket to send live speech straight to the session's owner."""


class OwnerLost(Incoming):
    """A hint: the connection to this owner broke. One that is there after all is left alone."""

    epoch: tuple[int, int]


# ---------------------------------------------------------------- answers


class Failure(Outgoing):
    """Why something did not work, in words for a person and a type for a program."""

    type: str
    """The error's class, e.g. ``NoCredits``, ``ServiceUnreachable``, ``ClipTooLong``."""
    message: Text
    http_status: int | None = None
    code: int | None = None
    """LiveAvatar's own error code."""


class RoomAccess(Outgoing):
    """What one participant needs to join the room."""

    livekit_url: str
    sealed_token: Sealed
    """The LiveKit token; opened with a seal key."""
    identity: str | None = None


class SpeakerAccess(Outgoing):
    """What a speaker needs to send live speech to the session's owner (docs/audio.md)."""

    ingress_url: str
    """Where the owner listens: ws:// or wss://."""
    sealed_ticket: Sealed
    """Opened with a seal key; goes into the header ``Authorization: Bearer <ticket>``."""
    epoch: tuple[int, int]
    """The owner it is for; another one refuses it."""
    expires_at: datetime
    """A connection must be opened by then; one that is open may stay."""


class SealedAccess(Outgoing):
    """The answer to ``attach``."""

    session_key: str
    state: SessionState
    room: str | None = None
    """The room's name, when it is our own."""
    viewer: RoomAccess
    agent: RoomAccess | None = None
    speaker: SpeakerAccess | None = None
    """If it was asked for, and the owner takes live speech."""


Milliseconds = Annotated[int, Field(ge=0, le=10**10)]


class SpeechGap(Outgoing):
    """A silence inside an utterance: the avatar had nothing to say."""

    at_ms: Milliseconds
    """How much of the utterance had been played when it began."""
    duration_ms: Milliseconds


class UtteranceReport(Outgoing):
    """What became of one utterance, as far as LiveAvatar told us."""

    id: Annotated[str, StringConstraints(max_length=200)]
    outcome: UtteranceOutcome
    source: Literal["clip", "live"] = "clip"
    text: Text | None = None
    """The words of live speech, where its speaker told them and the workers do not seal them."""
    sealed_text: Sealed | None = None
    """The same, where the workers seal them (``AVATAR_SESSIONS_SEAL_TEXTS``)."""
    duration_ms: Milliseconds = 0
    """Length of the speech that was asked for; of live speech, of what was received."""
    received_ms: Milliseconds = 0
    """Speech taken in: fetched and decoded, or received from a speaker."""
    sent_ms: Milliseconds = 0
    """Speech put on the wire."""
    played_ms: Milliseconds = 0
    """How long the avatar talked, by LiveAvatar's own signs of its start and end."""
    heard_ms: Milliseconds = 0
    """Speech played by the avatar."""
    gaps: list[SpeechGap] = Field(default_factory=list, max_length=100)
    """The first hundred."""
    owner: str | None = None
    """The task queue of the process that said it."""
    generation: int = 0
    """The LiveAvatar session that said it."""
    first_audio_ms: Milliseconds | None = None
    """From the first chunk on the wire until LiveAvatar reported that the avatar talks."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    failure: Failure | None = None


class UtteranceTotals(Outgoing):
    """All utterances of a session added up."""

    count: int = 0
    by_outcome: dict[UtteranceOutcome, int] = Field(default_factory=dict)
    sent_ms: int = 0
    heard_ms: int = 0


class CommandResult(Outgoing):
    """The answer to ``perform``: given when the command is on the wire, or an utterance over."""

    command_id: str
    kind: str
    outcome: CommandOutcome | UtteranceOutcome
    utterance: UtteranceReport | None = None


class SessionStatus(Outgoing):
    """The answer to the query ``status``."""

    session_key: str
    state: SessionState
    end_reason: EndReason | None = None
    failure: Failure | None = None
    provider_session_id: str | None = None
    generation: int = 0
    epoch: tuple[int, int] | None = None
    requested_at: datetime
    live_at: datetime | None = None
    ends_at: datetime | None = None
    """When the duration limit will end it."""
    speaking: str | None = None
    """The utterance that is being spoken."""
    pose: Pose = Pose.IDLE
    """What the avatar was last told to do while it is silent."""
    waiting_commands: int = 0
    utterances: int = 0
    """How many are over."""
    totals: UtteranceTotals = Field(default_factory=UtteranceTotals)
    latest_utterances: list[UtteranceReport] = Field(default_factory=list)
    """The last few that are over, oldest first. Live speech is told with up to 5 s of delay."""
    ignored_messages: int = 0
    waiting_for: str | None = None
    """What its start waits for, in words: a free LiveAvatar session, or LiveAvatar's rate limit."""
    waiting_since: datetime | None = None
    alert: str | None = None
    """What an operator must look at; the same word as the search attribute ``AvatarAlert``."""


class GenerationReport(Outgoing):
    """One LiveAvatar session: the thing that is billed."""

    number: int
    provider_session_id: str
    started_at: datetime | None = None
    """When the request that begins billing was sent; None: it never was."""
    stopped_at: datetime | None = None
    """When it ended: by LiveAvatar's books, or when it was confirmed to us that it had."""
    billed_s: float = 0.0
    """How long it ran, by LiveAvatar's books; where they do not tell, from the request that begins
    billing to the confirmed stop by our clock: an upper bound."""
    stop: Literal["stopped", "already_gone", "unconfirmed", "not_needed"] = "not_needed"
    provider_end_reason: str | None = None
    credits_consumed: float | None = None
    """As LiveAvatar's session list tells it, where it does."""


class IgnoredMessage(Outgoing):
    """A message that could not be understood: recorded, and nothing else."""

    name: str
    problem: str
    at: datetime


class CleanupReport(Outgoing):
    """What was left behind: nothing, if both are true."""

    provider_stopped: bool = True
    room_clean: bool = True
    problems: list[str] = Field(default_factory=list)
    alert: str | None = None
    """What an operator must still look at, as in ``AvatarAlert``; None: nothing."""


class SessionReport(Outgoing):
    """The workflow's result: what happened and what it cost."""

    session_key: str
    workflow_id: str
    run_id: str
    state: SessionState
    end_reason: EndReason
    failure: Failure | None = None
    requested_at: datetime
    live_at: datetime | None = None
    ended_at: datetime
    start_ms: int | None = None
    """From the request until the avatar was live."""
    live_ms: int = 0
    """How long it was live."""
    generations: list[GenerationReport] = Field(default_factory=list)
    utterances: list[UtteranceReport] = Field(default_factory=list)
    """The first 500, in the order in which they were over; ``totals`` counts all."""
    totals: UtteranceTotals = Field(default_factory=UtteranceTotals)
    takeovers: int = 0
    """How often another owner, or another attempt of the same one, took over."""
    reconnects: int = 0
    """How often the owner got the WebSocket back after it was lost."""
    gaps_ms: int = 0
    """Time between the first LIVE and the end in which no owner was connected."""
    ignored: list[IgnoredMessage] = Field(default_factory=list)
    """The first 50."""
    ignored_count: int = 0
    cleanup: CleanupReport = Field(default_factory=CleanupReport)


def problems_of(error: ValidationError) -> str:
    """A validation error as one line without the offending values (they may be secrets).

    Bounded: a message with thousands of wrong fields must not become a rejection of megabytes,
    which the server refuses, again and again.
    """
    told = error.errors(include_url=False, include_context=False, include_input=False)
    problems = "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])[:100] or 'message'}:"
        f" {item['msg'].removeprefix('Value error, ')}"
        for item in told[:MAX_TOLD_PROBLEMS]
    )
    more = len(told) - MAX_TOLD_PROBLEMS
    return problems[:MAX_TEXT_CHARS] + (f"; and {more} more" if more > 0 else "")


def one_message(messages: tuple[Any, ...]) -> Any:
    """The single argument of a signal or update.

    Raises:
        ValueError: there is none, or more than one.
    """
    if len(messages) != 1:
        raise ValueError(f"expected one JSON object, got {len(messages)} arguments")
    return messages[0]
