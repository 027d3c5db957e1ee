"""The live dialect without a socket: frames in, events out; messages in, frames out.

Two roles. `SpeakerProtocol` is the client's side, `OwnerProtocol` the side of the process that owns
the session. Neither opens a connection, waits, or reads a clock. How much of an utterance was sent,
kept or played is not known here: that is `outbox` at the speaker, and the utterance at the owner.

Theory of operation
===================

A speaker streams PCM to the session's owner over one WebSocket. The connection may break, the owner
may change, and the LiveAvatar session behind the owner may change; an utterance survives all three.
The dialect lies on top of LITE: what LITE has a message for (ending an utterance, interrupting,
poses, keep-alive, the avatar's state) travels as LITE's own message. Both sides use it only if the
WebSocket subprotocol was agreed on; without it the owner serves plain LITE and sends no ``live.``
message.

Positions are bytes of an utterance's PCM from its beginning. Three of them grow, in this order:
``received_bytes`` (the owner has it), ``sent_bytes`` (LiveAvatar has it), ``played_bytes`` (the
avatar has said it). A speaker sends at most ``window_bytes`` beyond ``sent_bytes``.

::

    speaker                              owner                                LiveAvatar
       | ---------- WebSocket opened ------> |                                     |
       | <- session.state_updated connected- |                                     |
       | <- live.ready (epoch, generation) - |  OPENING -> READY                   |
       | <- live.state live ---------------- |                                     |
       |                                     |                                     |
       | -- live.begin u1, offset 0 -------> |  PCM from here on belongs to u1     |
       | -- PCM, PCM, PCM -----------------> | -- agent.speak ...................> |
       | <- live.progress (received, sent) - |  the window moves                   |
       | -- agent.speak_end u1 ------------> |  no more PCM for u1                 |
       | -- live.begin u2 -----------------> |  u2 waits until u1 is over          |
       | <- live.over (report of u1) ------- |                                     |
       |                                     |                                     |
       | -- agent.interrupt i1 ------------> | -- agent.interrupt ...............> |
       | <- live.interrupted i1, u2, heard - |  PCM under way for u2 is dropped    |
       | <- live.over (u2, interrupted) ---- |                                     |
       |                                     |                                     |
       | -- live.begin u3, PCM ------------> |                                     |
       X ---------- connection breaks ------ |  u3 waits for its speaker           |
       | ---------- connected again -------> |                                     |
       | -- live.begin u3, offset = sent --> |  u3 is known: the offset is ignored |
       | <- live.progress received = r ----- |                                     |
       | -- PCM from position r -----------> |                                     |
       |                                     |                                     |
       | <------ close 4001 (MOVED) -------- |  another process owns the session   |
       | ---------- connected -------------> next owner, later epoch               |
       | -- live.begin u3, offset = sent --> |  u3 is unknown: it begins at offset |
       | <- live.progress received = offset  |                                     |
       | -- PCM from the offset -----------> |                                     |
       |                                     |                                     |
       | <- session.state_updated closed --- |  READY -> LEAVING                   |
       | <------ close 1000 ---------------- |  LEAVING -> CLOSED                  |

Begin and resume are one message. The owner answers each ``live.begin`` with ``live.progress``, or
with ``live.over`` if the utterance is over. For a new utterance the speaker may send PCM before the
answer; to resume one, the speaker waits for it.

Takeover. An owner that does not know the utterance takes ``offset_bytes`` as its beginning: what
the owner before it had sent to LiveAvatar. ``unplayed_ms`` says how much of that the avatar still
has to play, ``silent_ms`` how long it has had nothing. If ``generation`` in ``live.ready`` differs
from the one before, the new LiveAvatar session has none of the speech: the speaker resumes from
``played_bytes`` and sets ``fresh``.

Interrupt. ``agent.interrupt`` travels in the same stream as the speech, so that it cuts exactly
what was sent before it. After it PCM belongs to no utterance until the next ``live.begin``.

Over. The owner decides how an utterance ended; its report travels in ``live.over``, once to each
connection, and again to a speaker that begins the same utterance again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Final, Literal, TypeAlias
from uuid import uuid4

from pydantic import ValidationError

from avatar_sessions.contract.live_dialect import (
    MAX_FRAME_BYTES,
    OWNER_MESSAGES,
    CloseCode,
    LiveBegin,
    LiveInterrupted,
    LiveMessage,
    LiveOver,
    LiveProgress,
    LiveReady,
    LiveState,
    OwnerMessage,
)
from avatar_sessions.contract.messages import problems_of
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite.errors import (
    ConnectionLost,
    FrameTooLarge,
    IllegalTransition,
    NotConnectedYet,
    ProtocolViolation,
)
from liveavatar_lite.messages import (
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    Command,
    ErrorReported,
    ProviderState,
    ServerEvent,
    SessionStateUpdated,
    SpeakEnded,
    SpeakInterrupted,
    SpeakStarted,
    decode_event,
    encode_command,
    encode_event,
)
from liveavatar_lite.protocol import ServerProtocol, SessionPhase

MAX_REFUSALS: Final = 100
"""Messages that an owner refuses before it closes the connection with `CloseCode.BAD_MESSAGE`."""
MAX_PROBLEM_CHARS: Final = 400
_BEGIN: Final = "live.begin"
_SPEAK_STARTS: Final = ('{"type":"agent.speak"', '{"type": "agent.speak"')
_ABNORMAL: Final = 1006
_CLOSED_STATES: Final = frozenset(
    {ProviderState.CLOSING, ProviderState.CLOSED, ProviderState.DISCONNECTED}
)


def new_id() -> str:
    """An id for an event."""
    return str(uuid4())


# --- state ----------------------------------------------------------------------------


class LivePhase(IntEnum):
    """How far one connection has come, in either role. It only moves forward."""

    OPENING = 0
    """The WebSocket is open; ``live.ready`` has not passed. Nothing may be sent to the owner."""
    READY = 1
    """Speech and commands are taken."""
    LEAVING = 2
    """The owner has announced the end. What the speaker sends now is dropped."""
    CLOSED = 3
    """The socket is gone."""


LEGAL_TRANSITIONS: Final[Mapping[LivePhase, frozenset[LivePhase]]] = {
    phase: frozenset(later for later in LivePhase if later > phase) for phase in LivePhase
}


def _checked(phase: LivePhase, later: LivePhase) -> LivePhase:
    if later not in LEGAL_TRANSITIONS[phase]:
        raise IllegalTransition(f"a connection cannot go from {phase.name} to {later.name}")
    return later


class DisconnectReason(Enum):
    """How a connection, or the attempt to make one, ended for its speaker."""

    BROKEN = "broken"
    """Without an announcement, or by a fault: the owner may still be there."""
    NOT_OWNER = "not owner"
    """That process does not own the session any more, or the ticket is not valid there."""
    SESSION_OVER = "session over"


# --- messages that are not LITE's -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class PcmChunk:
    """A binary frame: PCM of an utterance.

    At the owner ``utterance_id`` is None if a plain LITE client has begun none.
    """

    utterance_id: str | None
    pcm: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NotUnderstood:
    """A frame from the owner that this release cannot read: it is skipped."""

    problem: str


SpeakerMessage: TypeAlias = LiveBegin | PcmChunk | Command
"""What a speaker sends, and what the owner's role yields."""
OwnerEvent: TypeAlias = OwnerMessage | ServerEvent | NotUnderstood
"""What the speaker's role yields."""


# --- the speaker's side ---------------------------------------------------------------


class SpeakerProtocol:
    """The client's side of one connection; a new connection needs a new one.

    Attributes:
        phase: READY from ``live.ready`` on.
        utterance_id: the utterance begun last, which PCM belongs to; None after an interrupt.
    """

    def __init__(self) -> None:
        self.phase = LivePhase.OPENING
        self.utterance_id: str | None = None
        self._close_code: int | None = None

    def send(self, message: SpeakerMessage) -> str | bytes:
        """The frame for a message: bytes for PCM, text for all else.

        Raises:
            NotConnectedYet: the owner has not sent ``live.ready``.
            ConnectionLost: the owner has announced the end, or the socket is gone.
            ProtocolViolation: PCM of another utterance than the one begun last.
        """
        if self.phase is not LivePhase.READY:
            self._refuse_to_send()
        if isinstance(message, PcmChunk):
            if message.utterance_id is None or message.utterance_id != self.utterance_id:
                raise ProtocolViolation(
                    f"PCM of utterance {message.utterance_id!r} after live.begin of"
                    f" {self.utterance_id!r}: begin it first"
                )
            return message.pcm
        if isinstance(message, LiveBegin):
            self.utterance_id = message.utterance_id
            return _encoded(message)
        if isinstance(message, AgentInterrupt):
            self.utterance_id = None
        return encode_command(message).decode()

    def receive(self, frame: str | bytes) -> list[OwnerEvent]:
        """Read one frame. Never raises; binary frames mean nothing in this direction."""
        if isinstance(frame, bytes):
            return []
        try:
            parsed = json.loads(frame)
        except (ValueError, RecursionError):
            parsed = None
        kind = parsed.get("type") if isinstance(parsed, dict) else None
        if not isinstance(kind, str):
            return [NotUnderstood("it is not a JSON object with a type")]
        if kind.startswith("live."):
            return [self._live_message(kind, parsed)]
        event = decode_event(frame)
        if isinstance(event, SessionStateUpdated) and event.state in _CLOSED_STATES:
            self._move_on(LivePhase.LEAVING)
        return [event]

    def closed(self, code: int | None) -> DisconnectReason:
        """The socket is gone, with this close code; None: without one. Returns what that means."""
        announced = self.phase is LivePhase.LEAVING
        self._move_on(LivePhase.CLOSED)
        self._close_code = code
        if announced:
            return DisconnectReason.SESSION_OVER
        if code == CloseCode.MOVED:
            return DisconnectReason.NOT_OWNER
        return DisconnectReason.BROKEN

    def _live_message(self, kind: str, parsed: Any) -> OwnerEvent:
        model = OWNER_MESSAGES.get(kind)
        if model is None:
            return NotUnderstood(f"unknown message type: {kind[:80]!r}")
        try:
            message = model.model_validate(parsed)
        except ValidationError as error:
            return NotUnderstood(f"{kind}: {problems_of(error)}")
        if isinstance(message, LiveReady):
            self._move_on(LivePhase.READY)
        return message

    def _move_on(self, phase: LivePhase) -> None:
        """Follow what the other side, or the network, did: a late announcement changes nothing."""
        if phase in LEGAL_TRANSITIONS[self.phase]:
            self.phase = phase

    def _refuse_to_send(self) -> None:
        if self.phase is LivePhase.OPENING:
            raise NotConnectedYet("the owner has not sent live.ready: wait for it")
        code = _ABNORMAL if self._close_code is None else self._close_code
        raise ConnectionLost(code, f"the connection to the owner is {self.phase.name}")


# --- the owner's side -----------------------------------------------------------------


class OwnerProtocol:
    """The side of the process that owns the session, for one connection.

    After each `receive` and what it causes, send what `replies_to_send` returns; if `close_code` is
    set then, close with it.

    Args:
        extended: the live dialect was agreed on. If not, this is plain LITE in the server's role.
        make_id: makes the ids of events.

    Attributes:
        extended: see the argument.
        phase: READY between `greet` and `leave`.
        utterance_id: the utterance begun last, which binary frames belong to; None before the
            first, after its end and after an interrupt.
        close_code: set when the connection must be closed; None before.
        refusals: messages refused so far.
    """

    def __init__(self, *, extended: bool, make_id: Callable[[], str] = new_id) -> None:
        self.extended = extended
        self.phase = LivePhase.OPENING
        self.utterance_id: str | None = None
        self.close_code: int | None = None
        self.refusals = 0
        self._lite = ServerProtocol(max_frame_bytes=MAX_FRAME_BYTES, new_id=make_id)
        self._make_id = make_id
        self._replies: list[str] = []
        self._names: dict[str, str | None] = {}  # utterances of this speaker: its name for each
        self._started: set[str] = set()  # utterances whose agent.speak_started was sent

    # --- what comes in

    def receive(self, frame: str | bytes) -> list[SpeakerMessage]:
        """Read one frame: the message in it, or none if it was dropped or refused. Never raises.

        An ``agent.speak_end`` with audio yields two messages.
        """
        if self.phase is not LivePhase.READY:
            return []
        if isinstance(frame, bytes):
            return self._binary(frame)
        if self.extended and len(frame) <= MAX_FRAME_BYTES and _is_begin(frame):
            return self._begin(frame)
        commands = self._lite.receive(frame)
        if not commands:
            self._take_lite_refusals()
            return []
        return self._command(commands[0])

    def _binary(self, pcm: bytes) -> list[SpeakerMessage]:
        if len(pcm) > MAX_FRAME_BYTES:
            self.refuse(str(FrameTooLarge(len(pcm), MAX_FRAME_BYTES)))
            self.close_code = CloseCode.TOO_LARGE
            return []
        if self.extended and self.utterance_id is None:
            return []  # it was under way when its utterance was cut
        return [PcmChunk(self.utterance_id, pcm)]

    def _begin(self, frame: str) -> list[SpeakerMessage]:
        try:
            begin = LiveBegin.model_validate_json(frame)
        except ValidationError as error:
            self.refuse(problems_of(error))
            return []
        self.utterance_id = begin.utterance_id
        return [begin]

    def _command(self, command: Command) -> list[SpeakerMessage]:
        event_id = getattr(command, "event_id", None)
        if event_id is not None and not _is_unicode(event_id):
            self.refuse("event_id is not valid Unicode")
            return []
        match command:
            case AgentInterrupt():
                self.utterance_id = None
            case AgentSpeakEnd(audio=bytes(audio)) if audio:
                return [AgentSpeak(audio, event_id), AgentSpeakEnd(event_id)]
        return [command]

    def _take_lite_refusals(self) -> None:
        replies = self._lite.replies_to_send()
        self._count_refusals(len(replies))
        self._replies += replies
        if self._lite.close_code is not None:
            self.close_code = self._lite.close_code

    def open(self, utterance_id: str, name: str | None) -> None:
        """This connection's speaker brings that utterance from now on, and calls it ``name``."""
        self.utterance_id = utterance_id
        self._names.setdefault(utterance_id, name)

    def close_begin(self) -> None:
        """The last ``live.begin`` opened nothing: it was refused, or its utterance is over.

        What follows belongs to no utterance: PCM is dropped, and an end without a name ends none.
        """
        self.utterance_id = None

    def finish(self, event_id: str | None) -> str | None:
        """The utterance that an ``agent.speak_end`` ends: the one it names, else the current one.

        No more PCM belongs to it.
        """
        named = self.extended and event_id in self._names
        utterance_id = event_id if named else self.utterance_id
        if utterance_id == self.utterance_id:
            self.utterance_id = None
        return utterance_id

    def refuse(self, problem: str, event_id: str | None = None) -> None:
        """Answer the message with an error; after `MAX_REFUSALS` the connection is to be closed."""
        self._replies.append(
            encode_event(
                ErrorReported(
                    type="invalid_request_error",
                    message=problem[:MAX_PROBLEM_CHARS],
                    source_event_id=event_id,
                    event_id=self._make_id(),
                )
            )
        )
        self._count_refusals(1)

    def _count_refusals(self, more: int) -> None:
        self.refusals += more
        if self.refusals > MAX_REFUSALS and self.close_code is None:
            self.close_code = CloseCode.BAD_MESSAGE

    def replies_to_send(self) -> list[str]:
        """Error frames that are due, oldest first. Each is returned once."""
        replies, self._replies = self._replies, []
        return replies

    # --- what goes out

    def greet(self, ready: LiveReady, state: Literal["live", "recovering"]) -> list[str]:
        """The first frames of a connection.

        Raises:
            IllegalTransition: it was greeted before.
        """
        self.phase = _checked(self.phase, LivePhase.READY)
        frames = [self._lite.enter(SessionPhase.NEW), self._lite.enter(SessionPhase.CONNECTED)]
        return [*frames, *self.send(ready), *self.speech_state(state)]

    def send(self, message: LiveMessage | ServerEvent) -> list[str]:
        """The frames for a message: none if the client does not know the live dialect."""
        if not isinstance(message, LiveMessage):
            return [encode_event(message)]
        return [_encoded(message)] if self.extended else []

    def speech_state(self, state: Literal["live", "recovering"]) -> list[str]:
        """Whether speech goes on to LiveAvatar now."""
        return self.send(LiveState(state=state))

    def started(self, utterance_id: str) -> list[str]:
        """The avatar has begun to play an utterance, of this speaker or of another source."""
        self._started.add(utterance_id)
        return self.send(SpeakStarted(self._make_id(), self.name_of(utterance_id), utterance_id))

    def progress(self, progress: LiveProgress) -> list[str]:
        """How far an utterance has come; for the connection that brings it only."""
        return self.send(progress) if progress.utterance_id in self._names else []

    def interrupted(
        self, event_id: str | None, utterance_id: str | None, heard_ms: int
    ) -> list[str]:
        """An interrupt of this speaker is on the wire to LiveAvatar."""
        return self.send(
            LiveInterrupted(event_id=event_id, utterance_id=utterance_id, heard_ms=heard_ms)
        )

    def over(self, report: UtteranceReport) -> list[str]:
        """An utterance is over, of this speaker or of another source."""
        frames: list[str] = []
        if report.id in self._started:
            self._started.discard(report.id)
            cut = report.outcome is UtteranceOutcome.INTERRUPTED
            kind = SpeakInterrupted if cut else SpeakEnded
            frames = self.send(kind(self._make_id(), self.name_of(report.id), report.id))
        self._names.pop(report.id, None)
        return [*frames, *self.send(LiveOver(utterance=report))]

    def leave(self, *, session_over: bool) -> list[str]:
        """This process lets the session go; sets `close_code`. A second call changes nothing."""
        if self.phase >= LivePhase.LEAVING:
            return []
        self.phase = _checked(self.phase, LivePhase.LEAVING)
        self.close_code = CloseCode.SESSION_OVER if session_over else CloseCode.MOVED
        return [self._lite.enter(SessionPhase.CLOSED)] if session_over else []

    def name_of(self, utterance_id: str) -> str | None:
        """What the client calls an utterance."""
        return self._names.get(utterance_id, utterance_id)


def _encoded(message: LiveMessage) -> str:
    return message.model_dump_json(exclude_none=True)


def _is_begin(frame: str) -> bool:
    """Whether the frame's type is ``live.begin``, wherever in the object that stands.

    The cheap questions come first: ``agent.speak`` with a second of base64 is never parsed here, so
    that LITE's fast path stays one. A type may be written with escapes.
    """
    if frame.startswith(_SPEAK_STARTS) or (_BEGIN not in frame and "\\" not in frame):
        return False
    try:
        parsed = json.loads(frame)
    except (ValueError, RecursionError):
        return False
    return isinstance(parsed, dict) and parsed.get("type") == _BEGIN


def _is_unicode(text: str) -> bool:
    """Whether text can be sent: JSON's escapes can make half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
