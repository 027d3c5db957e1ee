"""The live dialect: what a speaker and a session's owner say beside LITE's own messages.

The ingress speaks LITE as LiveAvatar does, so that a client written for LiveAvatar can use it. A
client that offers the WebSocket subprotocol `SUBPROTOCOL` gets this as well: binary frames of PCM,
flow control, resume, and each utterance's line of the ledger. The story is told in docs/audio.md.

PCM is 16-bit little-endian mono at 24 kHz; a position in an utterance is a number of its bytes,
always even. No I/O.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from avatar_sessions.contract.messages import UtteranceReport

SUBPROTOCOL: Final = "liveavatar-sessions.v1"
"""Offered by a client, and taken by the ingress, where both know the live dialect."""

PATH: Final = "/live"
"""The ingress answers here. With tickets in paths allowed, also at ``/live/<ticket>``."""

WINDOW_BYTES: Final = 96_000
"""Two seconds: how far a client may send ahead of what has gone on to LiveAvatar."""

MAX_FRAME_BYTES: Final = 1_000_000
"""A larger frame ends the connection with 1009, as LiveAvatar's own does."""

UtteranceId = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:@/+=-]+$")
]
Position = Annotated[int, Field(ge=0, le=2**40, multiple_of=2)]


class CloseCode(IntEnum):
    """How the ingress ends a connection, beside WebSocket's own codes."""

    SESSION_OVER = 1000  # LiveAvatar's own code at a session's end
    TOO_LARGE = 1009  # a frame over the limit
    UNREAD = 4000  # the client did not read what it was told
    MOVED = 4001  # this process owns the session no more: attach again
    BAD_MESSAGE = 4002  # too many messages that could not be understood


class LiveMessage(BaseModel):
    """A text frame of the live dialect."""

    model_config = ConfigDict(extra="ignore", frozen=True)


# ---------------------------------------------------------------- client to owner


class LiveBegin(LiveMessage):
    """Open an utterance, or go on with one. Binary frames after it are its PCM.

    LITE's ``agent.speak_end`` finishes it; its ``event_id`` is the utterance's id. The next one
    may begin before this one is over: it waits for its turn. The answer is a `LiveProgress`. To
    resume an utterance, wait for that answer and send on from its ``received_bytes``.
    """

    type: Literal["live.begin"] = "live.begin"
    utterance_id: UtteranceId
    text: Annotated[str, StringConstraints(max_length=4000)] | None = None
    """The words, for the ledger only."""
    offset_bytes: Position = 0
    """For an owner that does not know the utterance: how much of it the owner before it had sent
    on to LiveAvatar. What the client sends next begins there."""
    silent_ms: Annotated[int, Field(ge=0)] = 0
    """For an owner that does not know the utterance: how long the avatar has had nothing to say."""
    unplayed_ms: Annotated[int, Field(ge=0, le=60_000)] = 0
    """For an owner that does not know the utterance: what of the part before ``offset_bytes`` the
    avatar has still to play."""
    fresh: bool = False
    """The LiveAvatar session is another than the one that played the part before."""


CLIENT_MESSAGE: Final[TypeAdapter[LiveBegin]] = TypeAdapter(LiveBegin)


# ---------------------------------------------------------------- owner to client


class LiveReady(LiveMessage):
    """Sent first: the ingress serves this session."""

    type: Literal["live.ready"] = "live.ready"
    session_key: str
    epoch: tuple[int, int]
    generation: int
    window_bytes: int = WINDOW_BYTES


class LiveState(LiveMessage):
    """Whether speech can go on to LiveAvatar now. Sent after `LiveReady`, and at each change."""

    type: Literal["live.state"] = "live.state"
    state: Literal["live", "recovering"]


class LiveProgress(LiveMessage):
    """How far an utterance has come: after `LiveBegin`, and whenever something was sent on.

    The client keeps ``position sent - sent_bytes <= window_bytes``, and keeps what it has sent
    from ``sent_bytes`` on, for the next owner.
    """

    type: Literal["live.progress"] = "live.progress"
    utterance_id: str
    received_bytes: int
    """Taken in; a connection that is made again goes on from here."""
    sent_bytes: int
    """Sent on to LiveAvatar."""
    played_bytes: int
    """Played by the avatar at this moment, as far as LiveAvatar told."""


class LiveInterrupted(LiveMessage):
    """LITE's ``agent.interrupt`` is on the wire to LiveAvatar."""

    type: Literal["live.interrupted"] = "live.interrupted"
    event_id: str | None = None
    """The interrupt's own id, as it came."""
    utterance_id: str | None = None
    """What was being said, if anything was."""
    heard_ms: int = 0
    """How much of it had been heard by then."""


class LiveOver(LiveMessage):
    """An utterance is over: its line of the ledger. Sent again to whoever begins it again."""

    type: Literal["live.over"] = "live.over"
    utterance: UtteranceReport


OwnerMessage = LiveReady | LiveState | LiveProgress | LiveInterrupted | LiveOver
OWNER_MESSAGE: Final[TypeAdapter[OwnerMessage]] = TypeAdapter(
    Annotated[OwnerMessage, Field(discriminator="type")]
)
