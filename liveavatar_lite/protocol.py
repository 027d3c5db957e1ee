"""LITE's WebSocket protocol, sans-I/O: frames in, events out; commands in, frames out.

Two roles: `ClientProtocol` talks to LiveAvatar; `ServerProtocol` is LiveAvatar's side, for the
simulator and the live audio ingress. Neither opens a connection, waits, or reads a clock: time is
an argument, in seconds of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from typing import Final, TypeAlias
from uuid import uuid4

from .errors import (
    BadAudio,
    ConnectionLost,
    FrameTooLarge,
    IllegalTransition,
    NotConnectedYet,
    ProtocolViolation,
)
from .messages import (
    MAX_FRAME_BYTES,
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    AgentStartListening,
    AgentState,
    AgentStateUpdated,
    AgentStopListening,
    AudioBufferAppended,
    AudioBufferCleared,
    AudioBufferCommitted,
    Command,
    ErrorReported,
    ProviderState,
    ServerEvent,
    SessionKeepAlive,
    SessionStateUpdated,
    SpeakEnded,
    SpeakInterrupted,
    SpeakStarted,
    SpeechEvent,
    decode_command,
    decode_event,
    encode_command,
    encode_event,
    encode_speak,
    speak_frame_bytes,
)
from .utterance_tracking import Change, UtteranceBook, UtteranceEnded, UtteranceStarted

CLOSE_NORMAL: Final = 1000
CLOSE_ABNORMAL: Final = 1006
CLOSE_TOO_LARGE: Final = 1009


def _new_id() -> str:
    return str(uuid4())


class SessionPhase(IntEnum):
    """The phase of the session behind the socket. It only moves forward."""

    NEW = 0
    """The socket is open or opening; the service has reported no state."""
    CONNECTING = 1
    """Avatar and room are not ready. Commands would be dropped."""
    CONNECTED = 2
    """Ready: the only phase in which commands are accepted."""
    CLOSING = 3
    """The session is ending; the socket may still carry events."""
    CLOSED = 4
    """The session has ended, or the socket was closed."""


LEGAL_TRANSITIONS: Final[Mapping[SessionPhase, frozenset[SessionPhase]]] = {
    phase: frozenset(later for later in SessionPhase if later > phase) for phase in SessionPhase
}

_PHASE_OF_STATE: Final[Mapping[str, SessionPhase]] = {
    ProviderState.NEW: SessionPhase.NEW,
    ProviderState.CONNECTING: SessionPhase.CONNECTING,
    ProviderState.CONNECTED: SessionPhase.CONNECTED,
    ProviderState.CLOSING: SessionPhase.CLOSING,
    ProviderState.CLOSED: SessionPhase.CLOSED,
    ProviderState.DISCONNECTED: SessionPhase.CLOSED,
}


class StateDialect(Enum):
    """The two sets of names for session states in LiveAvatar's documentation."""

    NEW_CONNECTED_DISCONNECTED = "new/connected/disconnected"
    CONNECTING_CONNECTED_CLOSING_CLOSED = "connecting/connected/closing/closed"


_STATE_OF_PHASE: Final[Mapping[StateDialect, Mapping[SessionPhase, ProviderState]]] = {
    StateDialect.NEW_CONNECTED_DISCONNECTED: {
        SessionPhase.NEW: ProviderState.NEW,
        SessionPhase.CONNECTING: ProviderState.NEW,
        SessionPhase.CONNECTED: ProviderState.CONNECTED,
        SessionPhase.CLOSING: ProviderState.DISCONNECTED,
        SessionPhase.CLOSED: ProviderState.DISCONNECTED,
    },
    StateDialect.CONNECTING_CONNECTED_CLOSING_CLOSED: {
        SessionPhase.NEW: ProviderState.CONNECTING,
        SessionPhase.CONNECTING: ProviderState.CONNECTING,
        SessionPhase.CONNECTED: ProviderState.CONNECTED,
        SessionPhase.CLOSING: ProviderState.CLOSING,
        SessionPhase.CLOSED: ProviderState.CLOSED,
    },
}


@dataclass(frozen=True, slots=True)
class PoseChanged:
    """The avatar's new pose (`AgentState`, or an unknown name). Reported once per change."""

    state: str


Event: TypeAlias = ServerEvent | UtteranceStarted | UtteranceEnded | PoseChanged
"""The client role's events: every message of the server, and the facts derived from it."""


class ClientProtocol:
    """The side that talks to LiveAvatar.

    Commands return the frame to send (UTF-8 bytes, as a *text* frame) and raise

    - `NotConnectedYet` before the session is connected: the service drops such commands silently;
    - `ConnectionLost` once it is closing or closed.

    Attributes:
        phase: the session's phase; commands are legal in `CONNECTED` only.
        pose: the avatar's pose, None before the first report.
        close_code: set by `closed`, None before.
        close_reason: set by `closed`, empty before.
        chunks_sent: the number of ``agent.speak`` frames made.
        chunks_acked: the number of those that the service has acknowledged.
        backward_states: session states that would have moved `phase` backwards. They are ignored: a
            late ``connecting`` must not end a working session.
    """

    def __init__(self, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.phase = SessionPhase.NEW
        self.pose: str | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self.chunks_sent = 0
        self.chunks_acked = 0
        self.backward_states = 0
        self._max_frame_bytes = max_frame_bytes
        self._book = UtteranceBook()
        self._resting_pose: str = AgentState.IDLE
        # Poses come from agent.state_updated once one was received, from speak_* before.
        self._service_reports_pose = False
        # Chunks since the last frame from the service, and the begin of that silence.
        self._chunks_unanswered = 0
        self._silent_since_s: float | None = None
        # False if the avatar talked before any chunk was acknowledged: see silent_s.
        self._acks_expected = True

    # --- commands -------------------------------------------------------------------------

    def speak(self, pcm: bytes, utterance_id: str) -> bytes:
        """Append PCM to the utterance; opens it if it is new.

        Raises:
            BadAudio: no bytes, or an odd number of them.
            FrameTooLarge: more than about 700 kB of PCM; a second is 48 kB.
            IllegalTransition: the utterance was ended or interrupted: more audio would be spoken as
                a new one.
            ProtocolViolation: another utterance is open.
        """
        self._check_connected("agent.speak")
        check_pcm(pcm, utterance_id)
        frame_bytes = speak_frame_bytes(len(pcm), utterance_id)
        if frame_bytes >= self._max_frame_bytes:
            raise FrameTooLarge(frame_bytes, self._max_frame_bytes, event_id=utterance_id)
        self._book.check_open(utterance_id)
        self._book.sent_audio(utterance_id, len(pcm))
        self.chunks_sent += 1
        self._chunks_unanswered += 1
        return encode_speak(pcm, utterance_id)

    def speak_end(self, utterance_id: str) -> bytes:
        """End the utterance's input. Without it the avatar waits for more and never rests.

        Raises:
            IllegalTransition: it was never opened, or was ended or interrupted.
        """
        self._check_connected("agent.speak_end")
        self._book.end(utterance_id)
        return encode_command(AgentSpeakEnd(utterance_id))

    def adopt(self, utterance_id: str) -> None:
        """Continue an utterance that an earlier connection of this session left unfinished.

        The service still has it, open or playing. Afterwards it takes audio and an end here, and
        its events are recognised. Adopt utterances in their order, and end again those that were
        ended.

        Raises:
            ProtocolViolation: another utterance is open on this connection.
        """
        self._check_connected("adopting an utterance")
        self._book.check_open(utterance_id)
        self._book.adopt(utterance_id)

    def interrupt(self, event_id: str | None = None) -> bytes:
        """Interrupt everything sent so far. Legal when nothing plays."""
        self._check_connected("agent.interrupt")
        self._book.cut(event_id)
        return encode_command(AgentInterrupt(event_id))

    def start_listening(self) -> bytes:
        """Take the attentive pose; while talking, the avatar takes it afterwards."""
        self._check_connected("agent.start_listening")
        self._resting_pose = AgentState.LISTENING
        return encode_command(AgentStartListening(_new_id()))

    def stop_listening(self) -> bytes:
        """Leave the attentive pose."""
        self._check_connected("agent.stop_listening")
        self._resting_pose = AgentState.IDLE
        return encode_command(AgentStopListening(_new_id()))

    def keep_alive(self) -> bytes:
        """Extend the service's idle window. No reply is documented."""
        self._check_connected("session.keep_alive")
        return encode_command(SessionKeepAlive(_new_id()))

    @property
    def open_utterance(self) -> str | None:
        """The utterance that takes audio now: begun by `speak`, neither ended nor interrupted."""
        return self._book.open_utterance

    # --- frames received -----------------------------------------------------------------

    def receive(self, frame: str | bytes, now_s: float) -> list[Event]:
        """Read one frame. Returns its message, followed by the facts derived from it.

        Never raises: an unknown or invalid message is an `UnknownEvent`.
        """
        self._chunks_unanswered = 0
        self._silent_since_s = None
        event = decode_event(frame)
        match event:
            case SessionStateUpdated(state):
                self._session_is(state)
                return [event]
            case AgentStateUpdated():
                return [event, *self._agent_is(event.new_state, now_s)]
            case (
                AudioBufferAppended()
                | AudioBufferCommitted()
                | AudioBufferCleared()
                | SpeakStarted()
                | SpeakEnded()
                | SpeakInterrupted()
            ):
                utterance_id, changes = self._correlate(event, now_s)
                return [replace(event, utterance_id=utterance_id), *changes]
            case ErrorReported():
                named = self._book.known(event.source_event_id, event.event_id)
                return [replace(event, utterance_id=named)]
            case _:
                return [event]

    def silent_s(self, now_s: float) -> float:
        """Seconds without any frame since a chunk was sent; 0 if every chunk was answered.

        Counted from the first call after the chunk, so call it often (the connection does, twice a
        second). A service that talks without acknowledging chunks (documented once) is
        exempt: its silence while talking is normal.
        """
        if not self._chunks_unanswered or not self._acks_expected:
            return 0.0
        if self.phase > SessionPhase.CONNECTED:
            return 0.0
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        return now_s - self._silent_since_s

    def closed(self, code: int, reason: str = "") -> None:
        """The socket was closed. Only the first report counts."""
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
        self.phase = SessionPhase.CLOSED

    # --- inside ---------------------------------------------------------------------------

    def _check_connected(self, command: str) -> None:
        if self.phase < SessionPhase.CONNECTED:
            raise NotConnectedYet(
                f"{command} while the session is {self.phase.name}: "
                "the service would drop it, wait for CONNECTED"
            )
        if self.phase > SessionPhase.CONNECTED:
            if self.close_code is not None:
                raise ConnectionLost(self.close_code, self.close_reason)
            raise ConnectionLost(
                CLOSE_NORMAL, f"the service reported the session {self.phase.name}"
            )

    def _session_is(self, state: str) -> None:
        phase = _PHASE_OF_STATE.get(state, self.phase)
        if phase in LEGAL_TRANSITIONS[self.phase]:
            self.phase = phase
        elif phase is not self.phase:
            self.backward_states += 1

    def _agent_is(self, state: str, now_s: float) -> list[Event]:
        self._service_reports_pose = True
        if state == self.pose:
            return []  # reported twice, or by speak_* before
        changes: list[Change] = []
        if state == AgentState.TALKING:
            changes = self._book.pose_talking(now_s)
        elif self.pose == AgentState.TALKING:
            changes = self._book.pose_rested(now_s)
        return [*self._pose_is(state), *changes]

    def _pose_is(self, state: str) -> list[Event]:
        if state == self.pose:
            return []
        self.pose = state
        if state == AgentState.TALKING and self.chunks_acked == 0:
            self._acks_expected = False
        return [PoseChanged(state)]

    def _correlate(self, event: SpeechEvent, now_s: float) -> tuple[str | None, list[Event]]:
        ids = (event.source_event_id, event.event_id, event.task_id)
        utterance_id: str | None
        changes: list[Change] = []
        pose: str | None = None
        match event:
            case AudioBufferAppended():
                self.chunks_acked += 1
                self._acks_expected = True
                utterance_id = self._book.appended(*ids, now_s)
            case AudioBufferCommitted():
                utterance_id, changes = self._book.committed(*ids)
            case AudioBufferCleared():
                utterance_id, changes = self._book.cleared(*ids[:2])
            case SpeakStarted():
                utterance_id, changes = self._book.speak_started(*ids, now_s)
                pose = AgentState.TALKING if changes else None
            case SpeakEnded() | SpeakInterrupted():
                cut = isinstance(event, SpeakInterrupted)
                utterance_id, changes = self._book.speak_ended(*ids, now_s, interrupted=cut)
                pose = self._resting_pose if self.pose == AgentState.TALKING else None
        if pose is None or self._service_reports_pose:
            return utterance_id, list(changes)
        return utterance_id, [*self._pose_is(pose), *changes]


class ServerProtocol:
    """LiveAvatar's side: accepts commands, answers invalid ones, emits events.

    After each `receive`, send the frames of `replies_to_send`; then, if `close_code` is set, close
    with it.

    Args:
        dialect: names of the session states on the wire.
        reject_odd_audio: answer audio that splits a sample with an error. What LiveAvatar does with
            it is not known.
        max_frame_bytes: a larger frame is answered with an error, and the connection closed.
        new_id: makes the ids of error replies.

    Attributes:
        phase: the session's phase, set by `enter` or by emitting `SessionStateUpdated`.
        close_code: set when the connection must be closed, after replies are sent; None before.
        dropped_commands: frames received while the session was not connected. Like LiveAvatar,
            this drops them without a reply.
        rejected_commands: frames that were answered with an error.
    """

    def __init__(
        self,
        *,
        dialect: StateDialect = StateDialect.NEW_CONNECTED_DISCONNECTED,
        reject_odd_audio: bool = False,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        self.phase = SessionPhase.NEW
        self.close_code: int | None = None
        self.dropped_commands = 0
        self.rejected_commands = 0
        self._dialect = dialect
        self._reject_odd_audio = reject_odd_audio
        self._max_frame_bytes = max_frame_bytes
        self._new_id = new_id
        self._replies: list[str] = []

    def receive(self, frame: str | bytes) -> list[Command]:
        """Read one frame; returns its command, or none if dropped or refused. Never raises."""
        frame_bytes = len(frame)  # JSON text from the usual encoders is ASCII, or nearly
        if frame_bytes > self._max_frame_bytes:
            self._refuse(FrameTooLarge(frame_bytes, self._max_frame_bytes))
            self.close_code = CLOSE_TOO_LARGE
            return []
        if self.phase is not SessionPhase.CONNECTED:
            self.dropped_commands += 1
            return []
        try:
            command = decode_command(frame)
            if self._reject_odd_audio and isinstance(command, AgentSpeak | AgentSpeakEnd):
                check_pcm(command.audio or b"\0\0", command.event_id)
        except ProtocolViolation as refusal:
            self._refuse(refusal)
            return []
        return [command]

    def replies_to_send(self) -> list[str]:
        """Pending error frames, oldest first. Each is returned once."""
        replies, self._replies = self._replies, []
        return replies

    def emit(self, event: ServerEvent) -> str:
        """The frame for an event.

        A `SessionStateUpdated` (with either dialect's name) moves `phase` and is encoded in this
        connection's dialect. The same state twice is legal, as with LiveAvatar.

        Raises:
            IllegalTransition: the session state would go backwards, or is unknown.
        """
        if not isinstance(event, SessionStateUpdated):
            return encode_event(event)
        phase = _PHASE_OF_STATE.get(event.state)
        if phase is None:
            raise IllegalTransition(f"session cannot go from {self.phase.name} to {event.state!r}")
        return self.enter(phase)

    def enter(self, phase: SessionPhase) -> str:
        """Move to a phase; returns its ``session.state_updated`` frame.

        Raises:
            IllegalTransition: backwards.
        """
        if phase is not self.phase and phase not in LEGAL_TRANSITIONS[self.phase]:
            raise IllegalTransition(f"session cannot go from {self.phase.name} to {phase.name}")
        self.phase = phase
        return encode_event(SessionStateUpdated(_STATE_OF_PHASE[self._dialect][phase]))

    def _refuse(self, refusal: ProtocolViolation) -> None:
        self.rejected_commands += 1
        error = ErrorReported(
            type="invalid_request_error",
            message=str(refusal),
            source_event_id=refusal.event_id,
            event_id=self._new_id(),
        )
        self._replies.append(encode_event(error))


def check_pcm(pcm: bytes, event_id: str | None = None) -> None:
    """Raise `BadAudio` unless these are whole 16-bit samples, at least one.

    The service does not check: invalid audio is garbled or silent there, without an error.
    """
    if not pcm:
        raise BadAudio("no audio", event_id=event_id)
    if len(pcm) % 2:
        raise BadAudio(
            f"{len(pcm)} bytes of audio: the last 16-bit sample is cut in half", event_id=event_id
        )
