"""The messages of the LITE WebSocket: one table, both directions, both event dialects.

Encodes and decodes; keeps no state, opens no socket. The order of messages is `protocol`'s part.

Frames are JSON objects with a ``type``. Commands are encoded to UTF-8 bytes (to be sent as a
*text* frame), because the only large message, ``agent.speak``, is made from a byte template;
events are encoded to ``str``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, TypeAlias

import pybase64

from .errors import BadAudio, ProtocolViolation

MAX_FRAME_BYTES: Final = 1_000_000
"""A whole JSON frame must be smaller.

Sources differ on what the limit counts; this is the strictest reading.
"""


class ProviderState(StrEnum):
    """States that ``session.state_updated`` may name.

    The documentation has had two sets of names; both occur.
    """

    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    CLOSING = "closing"
    CLOSED = "closed"
    DISCONNECTED = "disconnected"


class AgentState(StrEnum):
    """Poses that ``agent.state_updated`` may name."""

    IDLE = "idle"
    LISTENING = "listening"
    TALKING = "talking"


# --- commands: client to server -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentSpeak:
    """Append PCM (s16le mono, 24 kHz) to the utterance; opens one if none is open."""

    audio: bytes = field(repr=False)
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class AgentSpeakEnd:
    """End the utterance's input, optionally with a last piece of PCM.

    Without it the avatar never rests.
    """

    event_id: str | None = None
    audio: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AgentInterrupt:
    """Drop queued audio and pending video, end the utterance, go idle."""

    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class AgentStartListening:
    """Take the attentive pose."""

    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class AgentStopListening:
    """Leave the attentive pose."""

    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class SessionKeepAlive:
    """Extend the service's idle window of five minutes."""

    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class AgentStart:
    """Undocumented, sent by two clients, without effect.

    The server role accepts it; the client role never sends it.
    """

    encoding: str | None = None
    sample_rate: int | None = None
    channels: int | None = None


Command: TypeAlias = (
    AgentSpeak
    | AgentSpeakEnd
    | AgentInterrupt
    | AgentStartListening
    | AgentStopListening
    | SessionKeepAlive
    | AgentStart
)


# --- events: server to client ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionStateUpdated:
    """The session behind the socket changed its state.

    ``state`` is one of `ProviderState`, or an unknown name.
    """

    state: str


@dataclass(frozen=True, slots=True)
class AgentStateUpdated:
    """The avatar's pose changed: the primary sign of speech since September 2026.

    The states are `AgentState`, or unknown names.
    """

    previous_state: str | None
    new_state: str
    event_id: str | None = None
    source_event_id: str | None = None


@dataclass(frozen=True, slots=True)
class _SpeechEvent:
    """Fields of all events about an utterance.

    ``event_id`` is the server's; ``source_event_id`` names the command that caused the event, where
    given. ``task_id`` is ``task.id`` on the wire. ``utterance_id`` is not on the wire: the client
    role sets it when it has identified the utterance.
    """

    event_id: str | None = None
    source_event_id: str | None = None
    task_id: str | None = None
    utterance_id: str | None = None


@dataclass(frozen=True, slots=True)
class AudioBufferAppended(_SpeechEvent):
    """One ``agent.speak`` was accepted."""


@dataclass(frozen=True, slots=True)
class AudioBufferCommitted(_SpeechEvent):
    """``agent.speak_end`` was accepted.

    Not the end of playback: it may arrive while the avatar still talks.
    """


@dataclass(frozen=True, slots=True)
class AudioBufferCleared(_SpeechEvent):
    """``agent.interrupt`` was accepted; ``source_event_id`` is the interrupt's id."""


@dataclass(frozen=True, slots=True)
class SpeakStarted(_SpeechEvent):
    """Playback of an utterance began. Some servers never send it."""


@dataclass(frozen=True, slots=True)
class SpeakEnded(_SpeechEvent):
    """Playback of an utterance ended. Some servers never send it."""


@dataclass(frozen=True, slots=True)
class SpeakInterrupted(_SpeechEvent):
    """Playback of an utterance was interrupted."""


@dataclass(frozen=True, slots=True)
class ErrorReported:
    """The server reports an error.

    ``type``: ``invalid_request_error``, ``server_error``, ``video_starvation`` (audio too slow).
    """

    type: str
    message: str
    source_event_id: str | None = None
    event_id: str | None = None
    utterance_id: str | None = None


@dataclass(frozen=True, slots=True)
class WarningReported:
    """The server reports a warning; nothing has failed."""

    type: str
    message: str
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class IdleStarted:
    """Undocumented, observed: the avatar idles, also while its buffer is empty for a moment."""

    event_id: str | None = None
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class IdleEnded:
    """Undocumented, observed: the counterpart of `IdleStarted`."""

    event_id: str | None = None
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """Any other event, with all its fields.

    For an invalid frame, the type is empty and ``frame`` holds its beginning.
    """

    type: str
    fields: Mapping[str, Any]


SpeechEvent: TypeAlias = (
    AudioBufferAppended
    | AudioBufferCommitted
    | AudioBufferCleared
    | SpeakStarted
    | SpeakEnded
    | SpeakInterrupted
)
ServerEvent: TypeAlias = (
    SessionStateUpdated
    | AgentStateUpdated
    | SpeechEvent
    | ErrorReported
    | WarningReported
    | IdleStarted
    | IdleEnded
    | UnknownEvent
)

# --- the table ------------------------------------------------------------------------

COMMANDS: Final[Mapping[str, type[Command]]] = {
    "agent.speak": AgentSpeak,
    "agent.speak_end": AgentSpeakEnd,
    "agent.interrupt": AgentInterrupt,
    "agent.start_listening": AgentStartListening,
    "agent.stop_listening": AgentStopListening,
    "session.keep_alive": SessionKeepAlive,
    "start": AgentStart,
}
EVENTS: Final[Mapping[str, type[ServerEvent]]] = {
    "session.state_updated": SessionStateUpdated,
    "agent.state_updated": AgentStateUpdated,
    "agent.audio_buffer_appended": AudioBufferAppended,
    "agent.audio_buffer_committed": AudioBufferCommitted,
    "agent.audio_buffer_cleared": AudioBufferCleared,
    "agent.speak_started": SpeakStarted,
    "agent.speak_ended": SpeakEnded,
    "agent.speak_interrupted": SpeakInterrupted,
    "error": ErrorReported,
    "warning": WarningReported,
    "agent.idle_started": IdleStarted,
    "agent.idle_ended": IdleEnded,
}
# The path of a field in the frame, if not at the top under its own name. None: not on the wire.
_PATHS: Final[Mapping[tuple[type, str], tuple[str, ...] | None]] = {
    (ErrorReported, "type"): ("error", "type"),
    (ErrorReported, "message"): ("error", "message"),
    (ErrorReported, "source_event_id"): ("error", "event_id"),
    (WarningReported, "type"): ("warning", "type"),
    (WarningReported, "message"): ("warning", "message"),
}
_PATHS_OF_NAME: Final[Mapping[str, tuple[str, ...] | None]] = {
    "task_id": ("task", "id"),
    "utterance_id": None,
}


def _layout(message: type) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Pairs of attribute name and path in the frame."""
    pairs = []
    for each in fields(message):
        path = _PATHS.get((message, each.name), _PATHS_OF_NAME.get(each.name, (each.name,)))
        if path is not None:
            pairs.append((each.name, path))
    return tuple(pairs)


_TYPE_OF: Final[Mapping[type, str]] = {cls: name for name, cls in (COMMANDS | EVENTS).items()}  # type: ignore[operator]
_LAYOUT: Final = {cls: _layout(cls) for cls in _TYPE_OF}


# --- encoding -------------------------------------------------------------------------

_SPEAK_BEGIN: Final = b'{"type":"agent.speak","event_id":'
_SPEAK_AUDIO: Final = b',"audio":"'
_SPEAK_END: Final = b'"}'


@lru_cache(maxsize=1024)
def _speak_head(event_id: str | None) -> bytes:
    """The frame up to its audio; cached, because an utterance's chunks share one id."""
    return b"".join((_SPEAK_BEGIN, json.dumps(event_id).encode(), _SPEAK_AUDIO))


def speak_frame_bytes(pcm_bytes: int, event_id: str | None) -> int:
    """The size of the ``agent.speak`` frame for ``pcm_bytes`` of PCM, without encoding it."""
    return len(_speak_head(event_id)) + 4 * ((pcm_bytes + 2) // 3) + len(_SPEAK_END)


def encode_speak(pcm: bytes, event_id: str | None) -> bytes:
    """The hot path: one ``agent.speak`` frame from a byte template.

    Base64 needs no JSON escaping, so the audio is not passed to ``json.dumps``: 1 us instead of
    110 us for a second of speech (`bench`).
    """
    return b"".join((_speak_head(event_id), pybase64.b64encode(pcm), _SPEAK_END))


def encode_command(command: Command) -> bytes:
    """The command's frame as UTF-8 bytes, to be sent as a text frame.

    Fields that are None are left out.
    """
    if isinstance(command, AgentSpeak):
        return encode_speak(command.audio, command.event_id)
    frame: dict[str, Any] = {"type": _TYPE_OF[type(command)]}
    for name, (key, *_) in _LAYOUT[type(command)]:
        value = getattr(command, name)
        if isinstance(value, bytes):
            value = pybase64.b64encode(value).decode("ascii")
        if value is not None:
            frame[key] = value
    return _compact(frame).encode()


def encode_event(event: ServerEvent) -> str:
    """The event's frame.

    Missing ids are null, as the service sends them; empty objects are left out.
    """
    if isinstance(event, UnknownEvent):
        return _compact({"type": event.type, **event.fields})
    frame: dict[str, Any] = {"type": _TYPE_OF[type(event)]}
    for name, path in _LAYOUT[type(event)]:
        value = getattr(event, name)
        if len(path) == 1:
            frame[path[0]] = value
        elif value is not None:
            frame.setdefault(path[0], {})[path[1]] = value
    return _compact(frame)


def _compact(frame: Mapping[str, Any]) -> str:
    return json.dumps(frame, separators=(",", ":"))


# --- decoding -------------------------------------------------------------------------


def decode_event(frame: str | bytes) -> ServerEvent:
    """Decode a server's frame leniently: an unknown or invalid one becomes `UnknownEvent`.

    Fields are taken from the top of the object, or from an object under ``payload`` where the
    top has none.
    """
    try:
        parsed = json.loads(frame)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        beginning = frame[:200]
        if isinstance(beginning, bytes):
            beginning = beginning.decode(errors="replace")
        return UnknownEvent("", {"frame": beginning})
    kind = parsed.get("type")
    cls = EVENTS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        rest = {key: value for key, value in parsed.items() if key != "type"}
        return UnknownEvent(kind if isinstance(kind, str) else "", rest)
    values = {name: _text_at(parsed, path) for name, path in _LAYOUT[cls]}
    for name in _REQUIRED.get(cls, ()):
        values[name] = values[name] or ""
    return cls(**values)  # type: ignore[arg-type]


_REQUIRED: Final[Mapping[type, tuple[str, ...]]] = {
    SessionStateUpdated: ("state",),
    AgentStateUpdated: ("new_state",),
    ErrorReported: ("type", "message"),
    WarningReported: ("type", "message"),
}


def _text_at(frame: Mapping[str, Any], path: tuple[str, ...]) -> str | None:
    payload = frame.get("payload")
    for root in (frame, payload):
        found: Any = root
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return found if isinstance(found, str) else str(found)
    return None


def decode_command(frame: str | bytes) -> Command:
    """Decode a client's frame strictly, as LiveAvatar does.

    Raises:
        BadAudio: ``audio`` is missing, not text, or not base64.
        ProtocolViolation: not a JSON object, or of an unknown type.
    """
    plain = _decode_plain_speak(frame)
    if plain is not None:
        return plain
    try:
        parsed = json.loads(frame)
    except (ValueError, RecursionError):
        raise ProtocolViolation("message is not valid JSON") from None
    if not isinstance(parsed, dict):
        raise ProtocolViolation("message is not a JSON object")
    event_id = _text_at(parsed, ("event_id",))
    kind = parsed.get("type")
    cls = COMMANDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        shown = kind[:80] if isinstance(kind, str) else None
        raise ProtocolViolation(f"unknown message type: {shown!r}", event_id=event_id)
    if cls is AgentSpeak:
        return AgentSpeak(_pcm(parsed.get("audio"), event_id), event_id)
    if cls is AgentSpeakEnd:
        audio = parsed.get("audio")
        return AgentSpeakEnd(event_id, None if audio is None else _pcm(audio, event_id))
    if cls is AgentStart:
        encoding, rate, channels = (
            parsed.get(key) for key in ("encoding", "sample_rate", "channels")
        )
        return AgentStart(
            encoding if isinstance(encoding, str) else None,
            rate if isinstance(rate, int) else None,
            channels if isinstance(channels, int) else None,
        )
    return cls(event_id=event_id)  # type: ignore[call-arg]


_PLAIN_SPEAK: Final = re.compile(
    rb'\{"type": ?"agent\.speak", ?(?:"event_id": ?(?:"([\w.:-]*)"|null), ?)?"audio": ?"'
)
"""How ``agent.speak`` begins as `encode_speak` and ``json.dumps`` write it, with a plain id."""


def _decode_plain_speak(frame: str | bytes) -> AgentSpeak | None:
    """``agent.speak`` as nearly every client writes it; None for other frames.

    Takes a seventh of the time of ``json.loads``, which scans a second of speech for quotes. Strict
    base64 has neither quotes nor backslashes, so the result is exactly what JSON would give.
    """
    if isinstance(frame, str):
        if not frame.isascii():
            return None
        frame = frame.encode("ascii")
    head = _PLAIN_SPEAK.match(frame)
    if head is None or not frame.endswith(_SPEAK_END, head.end()):
        return None
    try:
        audio = memoryview(frame)[head.end() : -len(_SPEAK_END)]
        pcm = pybase64.b64decode(audio, validate=True)
    except ValueError:
        return None
    event_id = head[1]
    return AgentSpeak(pcm, None if event_id is None else event_id.decode("ascii"))


def _pcm(audio: object, event_id: str | None) -> bytes:
    if isinstance(audio, str):
        try:
            return pybase64.b64decode(audio, validate=True)
        except ValueError:
            pass
    raise BadAudio("invalid base64 audio data", event_id=event_id)
