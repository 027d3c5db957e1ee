"""What a backend sends to a session and what it gets back: one model a message, plain JSON.

Incoming models forbid unknown fields, so that a misspelt field is an error and not a silent
default. Outgoing models ignore them, so that fields can be added. No I/O.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
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

from avatar_sessions.contract.errors import InvalidMessage
from avatar_sessions.contract.states import (
    CommandOutcome,
    EndReason,
    Pose,
    SessionState,
    UtteranceOutcome,
)

Sealed = Annotated[str, StringConstraints(pattern=r"^gAAAA", max_length=16_384)]
"""A secret as a Fernet token: only a holder of a seal key can read it."""

CommandId = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:@/+=-]+$")
]

MAX_CLIP_S = 600.0
MAX_TEXT_CHARS = 1000
MAX_LISTED_PROBLEMS = 10
Text = Annotated[str, AfterValidator(lambda text: text[:MAX_TEXT_CHARS])]
"""Text for a person, cut to a length that cannot fill a history."""
DEFAULT_COMMAND_TTL_S = 30.0


class Incoming(BaseModel):
    """A message to a session. Made with unusable fields, it raises :class:`InvalidMessage`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    if not TYPE_CHECKING:

        def __init__(self, /, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                # Chained from nothing: pydantic's text quotes the values.
                raise InvalidMessage(type(self).__name__, problems_of(error)) from None

        # Pydantic's mark for an __init__ that adds nothing to validation: `model_validate` does
        # not call it, and raises ValidationError as everywhere.
        __init__.__pydantic_base_init__ = True


class Outgoing(BaseModel):
    """A message from a session: readers ignore fields they do not know yet."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


# ---------------------------------------------------------------- starting


class Video(Incoming):
    """How the avatar's video is made (LITE ``video_settings``)."""

    quality: Literal["very_high", "high", "medium", "low"] = "high"
    """1080p, 720p, 480p, 360p; more pixels, more latency."""
    encoding: Literal["VP8", "H264"] = "H264"
    """The video codec that the avatar publishes."""


class OwnRoom(Incoming):
    """A room on the workers' LiveKit server instead of one hosted by LiveAvatar."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    """The room's name. None: a name that is unique to the session's run."""
    avatar_identity: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "avatar"
    """The LiveKit identity under which the avatar joins."""
    delete_at_end: bool = True
    """Delete the room when the session ends. False: only the avatar is removed from it."""


class SessionRequest(Incoming):
    """Everything a session is started with."""

    avatar_id: UUID
    """The LiveAvatar avatar to show; a string in UUID form will do."""
    sandbox: bool = False
    """Use LiveAvatar's free sandbox: about a minute long, avatar Wayne only."""
    max_duration_s: int | None = Field(default=None, ge=10, le=24 * 3600)
    """The session's own limit in seconds. None: the limit of the plan or of the sandbox."""
    idle_timeout_s: float = Field(default=300.0, ge=1, le=24 * 3600)
    """End the session after so many seconds without a command or live speech."""
    start_timeout_s: float = Field(default=60.0, ge=0.5, le=600)
    """How many seconds it may take from the request until the avatar is live."""
    command_ttl_s: float = Field(default=DEFAULT_COMMAND_TTL_S, gt=0, le=3600)
    """How many seconds a command may wait for the avatar before it expires."""
    video: Video | None = None
    """How the avatar's video is made. None: high quality, H264."""
    room: OwnRoom | None = None
    """A room on the workers' LiveKit server. None: LiveAvatar hosts the room."""
    tenant: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    """The tenant that the session belongs to: the search attribute ``AvatarTenant``."""
    rotate: bool = True
    """Continue with a new LiveAvatar session before LiveAvatar's own limit ends the current one,
    as long as ``max_duration_s`` allows. False: LiveAvatar's limit ends the session."""
    resume: Literal["resume", "drop"] = "resume"
    """What becomes of a clip whose owner is lost in mid-utterance: the next owner resumes it, or
    drops it as ``lost``."""

    if TYPE_CHECKING:  # as editors and type checkers see it: a string is taken for a UUID, too

        def __init__(
            self,
            *,
            avatar_id: UUID | str,
            sandbox: bool = False,
            max_duration_s: int | None = None,
            idle_timeout_s: float = 300.0,
            start_timeout_s: float = 60.0,
            command_ttl_s: float = DEFAULT_COMMAND_TTL_S,
            video: Video | None = None,
            room: OwnRoom | None = None,
            tenant: str | None = None,
            rotate: bool = True,
            resume: Literal["resume", "drop"] = "resume",
        ) -> None: ...


# ---------------------------------------------------------------- commands


class Clip(Incoming):
    """Speech that the session's owner fetches and decodes: exactly one source."""

    url: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """An http or https address. Workflow history shows it: use ``sealed_url`` for signed ones."""
    sealed_url: Sealed | None = None
    """The address, encrypted with a seal key: ``AvatarSessions.sealed_clip`` makes it."""
    file: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = None
    """A path relative to the workers' clip folder (``AVATAR_SESSIONS_CLIP_FOLDER``)."""

    @field_validator("url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is not None and not url.lower().startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://; use `file` for a file")
        return url

    @model_validator(mode="after")
    def _one_source(self) -> Clip:
        if sum(source is not None for source in (self.url, self.sealed_url, self.file)) != 1:
            raise ValueError("a clip has exactly one of url, sealed_url and file")
        return self


class CommandBase(Incoming):
    """The fields that every command has."""

    command_id: CommandId | None = None
    """The command's id: repeats under one id are one command. None: a new id each time."""
    ttl_s: float | None = Field(default=None, gt=0, le=3600)
    """How many seconds it may wait for the avatar. None: the session's ``command_ttl_s``."""


class Speak(CommandBase):
    """Say a clip, after all speech requested before it."""

    kind: Literal["speak"] = "speak"
    """Which command this is."""
    clip: Clip
    """What to say."""


class Interrupt(CommandBase):
    """Stop speaking now; speech that was requested earlier and not yet heard is dropped."""

    kind: Literal["interrupt"] = "interrupt"
    """Which command this is."""


class SetPose(CommandBase):
    """Set what the avatar does while it is silent."""

    kind: Literal["set_pose"] = "set_pose"
    """Which command this is."""
    pose: Pose
    """``listening`` or ``idle``."""


class KeepAlive(CommandBase):
    """Restart both idle timeouts: the session's and LiveAvatar's."""

    kind: Literal["keep_alive"] = "keep_alive"
    """Which command this is."""


class End(CommandBase):
    """End the session."""

    kind: Literal["end"] = "end"
    """Which command this is."""
    finish_speaking: bool = False
    """Play the speech requested before to its end first. False: the avatar is cut mid-word."""


Command = Annotated[Speak | Interrupt | SetPose | KeepAlive | End, Field(discriminator="kind")]
COMMAND: TypeAdapter[Command] = TypeAdapter(Command)


class Attach(Incoming):
    """Request access to the room; answered once the avatar is live."""

    viewer_identity: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    """The viewer's identity in an ``OwnRoom``. A hosted room has one fixed viewer identity."""
    speaker: bool = False
    """Also request a ticket for sending live speech directly to the session's owner."""


class OwnerLost(Incoming):
    """A hint that the connection to an owner broke. The session probes the owner, and replaces it
    only if it does not answer."""

    epoch: tuple[int, int]
    """The owner that was connected."""


# ---------------------------------------------------------------- answers


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


def problems_of(error: ValidationError) -> str:
    """Format a validation error as one line without the offending values, which may be secrets.

    The line is bounded: the server would refuse a rejection of megabytes, made from a message with
    thousands of wrong fields, at every attempt.
    """
    listed = error.errors(include_url=False, include_context=False, include_input=False)
    problems = "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])[:100] or 'message'}:"
        f" {item['msg'].removeprefix('Value error, ')}"
        for item in listed[:MAX_LISTED_PROBLEMS]
    )
    more = len(listed) - MAX_LISTED_PROBLEMS
    return problems[:MAX_TEXT_CHARS] + (f"; and {more} more" if more > 0 else "")


def one_message(messages: tuple[Any, ...]) -> Any:
    """Return the single argument of a signal or update.

    Raises:
        ValueError: there is no argument, or more than one.
    """
    if len(messages) != 1:
        raise ValueError(f"expected one JSON object, got {len(messages)} arguments")
    return messages[0]
