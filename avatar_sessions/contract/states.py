"""The states and outcomes of a session: enums, and one table of legal transitions. No I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class SessionState(StrEnum):
    """The state of a session. Also the search attribute ``AvatarState``."""

    REQUESTED = "REQUESTED"  # the workflow exists; LiveAvatar has not been called yet
    MINTING = "MINTING"  # requesting a session token; not billed
    STARTING = "STARTING"  # /start is in flight; billing begins
    CONNECTING = "CONNECTING"  # billed; an owner is opening the WebSocket
    LIVE = "LIVE"  # the avatar can speak
    RECOVERING = "RECOVERING"  # was LIVE; its owner or its WebSocket is being replaced
    ENDING = "ENDING"  # stopping LiveAvatar, closing the WebSocket, cleaning up
    ENDED = "ENDED"  # cleaned up; ended by request or by a limit
    FAILED = "FAILED"  # cleaned up; ended by a failure


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
    """A bug in this project: a transition that is not in the table."""

    def __init__(self, current: SessionState, wanted: SessionState) -> None:
        super().__init__(f"a session cannot go from {current} to {wanted}")


def checked_transition(current: SessionState, wanted: SessionState) -> SessionState:
    """Return ``wanted`` if the table allows the transition.

    Raises:
        IllegalSessionTransition: the table does not have it.
    """
    if wanted not in TRANSITIONS[current]:
        raise IllegalSessionTransition(current, wanted)
    return wanted


class EndReason(StrEnum):
    """Why a session ended. The first group ends it ENDED, the second FAILED."""

    REQUESTED = "requested"  # by a signal, an update or the client
    CANCELLED = "cancelled"  # the workflow was cancelled
    MAX_DURATION = "max_duration"  # the session's own limit, or the plan's
    IDLE_TIMEOUT = "idle_timeout"  # no command and no live speech for too long
    PROVIDER_ENDED = "provider_ended"  # LiveAvatar ended it

    INVALID_REQUEST = "invalid_request"  # the request can never work
    START_FAILED = "start_failed"  # LiveAvatar or LiveKit refused or could not be reached
    START_TIMEOUT = "start_timeout"  # not LIVE in time
    CONNECTION_FAILED = "connection_failed"  # the WebSocket could not be reopened
    HISTORY_FULL = "history_full"  # more events than Temporal keeps of a workflow
    INTERNAL_ERROR = "internal_error"  # a bug in this project; see the failure

    @property
    def final_state(self) -> SessionState:
        """ENDED for an expected end, FAILED for an unexpected one."""
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
    """The outcome of a command other than speech."""

    SENT = "sent"  # on the wire to LiveAvatar
    DEFERRED = "deferred"  # a pose requested during speech: sent when the speech has ended
    ACCEPTED = "accepted"  # the workflow itself carries it out (end)
    EXPIRED = "expired"  # waited longer than its time to live
    CANCELLED = "cancelled"  # the session ended before it was carried out


class UtteranceOutcome(StrEnum):
    """The outcome of an utterance."""

    COMPLETED = "completed"  # played to its end
    INTERRUPTED = "interrupted"  # cut by an interrupt; heard_ms says how much was played
    REJECTED = "rejected"  # the clip cannot be played; the failure says why
    EXPIRED = "expired"  # waited for the avatar longer than its time to live
    LOST = "lost"  # the owner or its WebSocket was lost while it played
    CANCELLED = "cancelled"  # the session ended first


class AlertKind(StrEnum):
    """What an operator must look at: the values of the search attribute ``AvatarAlert``."""

    PROVIDER_NOT_STOPPED = "provider_not_stopped"  # it may be billed, and cannot be stopped
    ROOM_NOT_CLEAN = "room_not_clean"  # an own room may still exist, or the avatar be in it
