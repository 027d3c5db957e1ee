"""The life of a session as one enum and one table of legal transitions. No I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class SessionState(StrEnum):
    """Where a session stands. Also the search attribute ``AvatarState``."""

    REQUESTED = "REQUESTED"  # the workflow exists; nothing asked of LiveAvatar yet
    MINTING = "MINTING"  # asking for a session token; not billed
    STARTING = "STARTING"  # /start is under way; billing begins
    CONNECTING = "CONNECTING"  # billed; an owner is opening the WebSocket
    LIVE = "LIVE"  # the avatar can speak
    RECOVERING = "RECOVERING"  # was LIVE; its owner or its socket is being replaced
    ENDING = "ENDING"  # stop, close, clean up
    ENDED = "ENDED"  # cleaned up, as asked or by a deadline
    FAILED = "FAILED"  # cleaned up; did not do what was asked


TRANSITIONS: Final[dict[SessionState, frozenset[SessionState]]] = {
    SessionState.REQUESTED: frozenset({SessionState.MINTING, SessionState.ENDING}),
    SessionState.MINTING: frozenset({SessionState.STARTING, SessionState.ENDING}),
    SessionState.STARTING: frozenset(
        # back to MINTING: the outcome of /start is unknown, the next generation opens
        {SessionState.CONNECTING, SessionState.MINTING, SessionState.ENDING}
    ),
    SessionState.CONNECTING: frozenset(
        # back to MINTING: LiveAvatar ended the session before it was live, the next one opens
        {SessionState.LIVE, SessionState.MINTING, SessionState.ENDING}
    ),
    SessionState.LIVE: frozenset({SessionState.RECOVERING, SessionState.ENDING}),
    SessionState.RECOVERING: frozenset({SessionState.LIVE, SessionState.ENDING}),
    SessionState.ENDING: frozenset({SessionState.ENDED, SessionState.FAILED}),
    SessionState.ENDED: frozenset(),
    SessionState.FAILED: frozenset(),
}

BEFORE_LIVE: Final = frozenset(
    {
        SessionState.REQUESTED,
        SessionState.MINTING,
        SessionState.STARTING,
        SessionState.CONNECTING,
    }
)
FINAL: Final = frozenset({SessionState.ENDED, SessionState.FAILED})


class IllegalSessionTransition(RuntimeError):
    """A bug of ours: the session was asked to go where no arrow leads."""

    def __init__(self, current: SessionState, wanted: SessionState) -> None:
        super().__init__(f"a session cannot go from {current} to {wanted}")


def checked_transition(current: SessionState, wanted: SessionState) -> SessionState:
    """Return ``wanted`` if the table allows it.

    Raises:
        IllegalSessionTransition: the table has no such arrow.
    """
    if wanted not in TRANSITIONS[current]:
        raise IllegalSessionTransition(current, wanted)
    return wanted


class EndReason(StrEnum):
    """Why a session ended. The first group ends it ENDED, the second FAILED."""

    REQUESTED = "requested"  # somebody asked for it: signal, update, client
    CANCELLED = "cancelled"  # the workflow was cancelled
    MAX_DURATION = "max_duration"  # its own limit, or the plan's
    IDLE_TIMEOUT = "idle_timeout"  # nobody asked anything of it for too long
    PROVIDER_ENDED = "provider_ended"  # LiveAvatar ended it

    INVALID_REQUEST = "invalid_request"  # the request can never work
    START_FAILED = "start_failed"  # LiveAvatar or LiveKit refused or could not be reached
    START_TIMEOUT = "start_timeout"  # not LIVE in time
    CONNECTION_FAILED = "connection_failed"  # the WebSocket could not be had again
    HISTORY_FULL = "history_full"  # more commands than Temporal keeps of a workflow
    INTERNAL_ERROR = "internal_error"  # a bug of ours; the failure tells

    @property
    def final_state(self) -> SessionState:
        """ENDED for an end that was foreseen, FAILED for one that was not."""
        return SessionState.FAILED if self in _FAILED_REASONS else SessionState.ENDED


_FAILED_REASONS: Final = frozenset(
    {
        EndReason.INVALID_REQUEST,
        EndReason.START_FAILED,
        EndReason.START_TIMEOUT,
        EndReason.CONNECTION_FAILED,
        EndReason.HISTORY_FULL,
        EndReason.INTERNAL_ERROR,
    }
)


class Pose(StrEnum):
    """What the avatar does while it is silent."""

    LISTENING = "listening"
    IDLE = "idle"


class CommandOutcome(StrEnum):
    """What became of a command that is not speech."""

    SENT = "sent"  # on the wire to LiveAvatar
    DEFERRED = "deferred"  # a pose asked for during speech: sent when the avatar falls silent
    ACCEPTED = "accepted"  # the workflow itself acts on it (end)
    EXPIRED = "expired"  # waited longer than its time to live
    CANCELLED = "cancelled"  # the session ended before it could be done


class UtteranceOutcome(StrEnum):
    """What became of an utterance."""

    COMPLETED = "completed"  # heard to its end
    INTERRUPTED = "interrupted"  # cut by an interrupt; heard_ms tells how far it came
    REJECTED = "rejected"  # the clip cannot be spoken; the failure tells why
    EXPIRED = "expired"  # waited for the avatar longer than its time to live
    LOST = "lost"  # the owner or the socket died while it was spoken
    CANCELLED = "cancelled"  # the session ended first


class AlertKind(StrEnum):
    """What an operator must look at: the search attribute ``AvatarAlert`` in words."""

    PROVIDER_NOT_STOPPED = "provider_not_stopped"  # LiveAvatar may be billing, and cannot be told
    ROOM_NOT_CLEAN = "room_not_clean"  # a room of our own may still exist, or hold the avatar
