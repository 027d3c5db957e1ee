"""Messages of the live dialect, which a speaker and a session's owner exchange on top of LITE's.

The ingress speaks LITE as LiveAvatar does, so that a client written for LiveAvatar can use it. A
client that offers the WebSocket subprotocol `SUBPROTOCOL` also gets binary frames of PCM, flow
control, resume, and each utterance's report. `avatar_sessions.live.protocol` explains how the
dialect works and keeps the order of its messages. No I/O.

PCM is 16-bit little-endian mono at 24 kHz; a position in an utterance is a number of its bytes,
always even.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from avatar_sessions.contract.reports import UtteranceReport

SUBPROTOCOL: Final = "liveavatar-sessions.v1"
"""Offered by a client and selected by the ingress if both know the live dialect."""

PATH: Final = "/live"
"""Path of the ingress. If tickets in paths are allowed, also ``/live/<ticket>``."""

WINDOW_BYTES: Final = 96_000
"""Two seconds: how far a client may send ahead of what was sent on to LiveAvatar."""

MAX_FRAME_BYTES: Final = 1_000_000
"""A larger frame ends the connection with 1009, as LiveAvatar's own does."""

UtteranceId = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:@/+=-]+$")
]
Position = Annotated[int, Field(ge=0, le=2**40, multiple_of=2)]


class CloseCode(IntEnum):
    """WebSocket close codes that the ingress uses."""

    SESSION_OVER = 1000  # LiveAvatar's own code at a session's end
    TOO_LARGE = 1009  # a frame over the limit
    UNREAD = 4000  # the client did not read its messages
    MOVED = 4001  # this process does not own the session any more: attach again
    BAD_MESSAGE = 4002  # too many messages were refused


class LiveMessage(BaseModel):
    """A text frame of the live dialect."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


# ---------------------------------------------------------------- client to owner


class LiveBegin(LiveMessage):
    """Open an utterance, or resume one. Binary frames after it are its PCM.

    LITE's ``agent.speak_end`` finishes it; its ``event_id`` is the utterance's id. The next
    utterance may begin before this one is over: it waits for its turn. The answer is a
    `LiveProgress`. To resume an utterance, wait for that answer and send from its
    ``received_bytes`` on.
    """

    type: Literal["live.begin"] = "live.begin"
    """Which message this is."""
    utterance_id: UtteranceId
    """The utterance's id, chosen by the speaker."""
    text: Annotated[str, StringConstraints(max_length=4000)] | None = None
    """The words, for the ledger only."""
    offset_bytes: Position = 0
    """For an owner that does not know the utterance: how much of it the owner before had sent on to
    LiveAvatar. The PCM that the client sends next begins there."""
    silent_ms: Annotated[int, Field(ge=0)] = 0
    """For an owner that does not know the utterance: how long the avatar has had nothing to say."""
    unplayed_ms: Annotated[int, Field(ge=0, le=60_000)] = 0
    """For an owner that does not know the utterance: how much of the part before ``offset_bytes``
    the avatar has still to play."""
    fresh: bool = False
    """Another LiveAvatar session than the present one played the part before."""


# ---------------------------------------------------------------- owner to client


class LiveReady(LiveMessage):
    """The first message of the dialect on a connection: the ingress serves this session."""

    type: Literal["live.ready"] = "live.ready"
    """Which message this is."""
    session_key: str
    """The session's key."""
    epoch: tuple[int, int]
    """The owner."""
    generation: int
    """The number of the current LiveAvatar session."""
    window_bytes: int = WINDOW_BYTES
    """How far the client may send ahead of ``LiveProgress.sent_bytes``."""


class LiveState(LiveMessage):
    """Whether speech reaches LiveAvatar now. Sent after `LiveReady`, and at each change."""

    type: Literal["live.state"] = "live.state"
    """Which message this is."""
    state: Literal["live", "recovering"]
    """``live``: speech reaches LiveAvatar; ``recovering``: the owner reconnects to LiveAvatar."""


class LiveProgress(LiveMessage):
    """How far an utterance has come. Sent after `LiveBegin`, and whenever speech was sent on.

    The client observes ``position sent - sent_bytes <= window_bytes``, and keeps what it has sent
    from ``sent_bytes`` on, for the next owner.
    """

    type: Literal["live.progress"] = "live.progress"
    """Which message this is."""
    utterance_id: str
    """The utterance's id."""
    received_bytes: int
    """Received by the owner; after a break the client sends from here on."""
    sent_bytes: int
    """Sent on to LiveAvatar."""
    played_bytes: int
    """Played by the avatar until now, as far as LiveAvatar has reported."""


class LiveInterrupted(LiveMessage):
    """LITE's ``agent.interrupt`` is on the wire to LiveAvatar."""

    type: Literal["live.interrupted"] = "live.interrupted"
    """Which message this is."""
    event_id: str | None = None
    """The id of the speaker's ``agent.interrupt``."""
    utterance_id: str | None = None
    """The utterance that was playing; None if none was."""
    heard_ms: int = 0
    """How much of it had been heard by then."""


class LiveOver(LiveMessage):
    """An utterance is over. Sent again to a speaker that begins it again."""

    type: Literal["live.over"] = "live.over"
    """Which message this is."""
    utterance: UtteranceReport
    """Its line of the session's ledger."""


# ---------------------------------------------------------------- the table of messages

OwnerMessage: TypeAlias = LiveReady | LiveState | LiveProgress | LiveInterrupted | LiveOver

SPEAKER_MESSAGES: Final[Mapping[str, type[LiveBegin]]] = {"live.begin": LiveBegin}
"""By the type that each has on the wire. All else that a speaker sends is LITE's."""
OWNER_MESSAGES: Final[Mapping[str, type[OwnerMessage]]] = {
    "live.ready": LiveReady,
    "live.state": LiveState,
    "live.progress": LiveProgress,
    "live.interrupted": LiveInterrupted,
    "live.over": LiveOver,
}
