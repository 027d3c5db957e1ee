"""What a backend sends to a session: the request and commands, one model a message, plain JSON.

The models forbid unknown fields, so that a misspelt field is an error and not a silent default.
What a session answers is in `reports`. No I/O.
"""

from __future__ import annotations

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
    Pose,
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
