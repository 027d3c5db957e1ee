"""Durable LiveAvatar sessions: the client a backend installs.

Names are loaded when they are first used: the workflow sandbox and the workers import
``avatar_sessions.contract`` from here without paying for the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avatar_sessions.access import Access, ParticipantAccess, SpeakerTicket
    from avatar_sessions.client import AvatarSessions
    from avatar_sessions.contract.messages import (
        CleanupReport,
        Clip,
        Command,
        CommandResult,
        End,
        Failure,
        GenerationReport,
        Interrupt,
        KeepAlive,
        OwnRoom,
        SessionReport,
        SessionRequest,
        SessionStatus,
        SetPose,
        Speak,
        SpeechGap,
        UtteranceReport,
        UtteranceTotals,
        Video,
    )
    from avatar_sessions.contract.states import (
        CommandOutcome,
        EndReason,
        Pose,
        SessionState,
        UtteranceOutcome,
    )
    from avatar_sessions.errors import (
        AccessFailed,
        AnswerTimedOut,
        AvatarNotAccepted,
        AvatarSessionsError,
        CommandExpired,
        CommandRejected,
        ConcurrencyLimit,
        DurationOverPlan,
        InvalidRequest,
        LiveSpeechClosed,
        LiveSpeechMisused,
        LiveSpeechUnavailable,
        LiveSpeechUnreachable,
        NoAnswer,
        NoCredits,
        SealKeysUnusable,
        SealMismatch,
        ServiceUnreachable,
        SessionFailed,
        SessionNotFound,
        SessionOver,
        SessionTerminated,
        StartTimedOut,
        TemporalUnreachable,
        TooManyAwaited,
        Unauthorized,
        UnexpectedAnswer,
        UtteranceOver,
        WorkersMissing,
    )
    from avatar_sessions.live import (
        LiveSpeech,
        LiveUtterance,
    )
    from avatar_sessions.live_blocking import (
        BlockingLiveSpeech,
        BlockingUtterance,
    )
    from avatar_sessions.live_events import (
        AvatarIdle,
        AvatarListening,
        AvatarTalking,
        LiveEvent,
        LiveEvents,
        SessionMoved,
        SpeechEnded,
        SpeechInterrupted,
        SpeechStateChanged,
    )
    from avatar_sessions.seal import Seal, SealError
    from avatar_sessions.session import Listing, Session
    from avatar_sessions.settings import ClientSettings

_HOMES = {
    "access": ("Access", "ParticipantAccess", "SpeakerTicket"),
    "client": ("AvatarSessions",),
    "contract.messages": (
        "CleanupReport",
        "Clip",
        "Command",
        "CommandResult",
        "End",
        "Failure",
        "GenerationReport",
        "Interrupt",
        "KeepAlive",
        "OwnRoom",
        "SessionReport",
        "SessionRequest",
        "SessionStatus",
        "SetPose",
        "Speak",
        "SpeechGap",
        "UtteranceReport",
        "UtteranceTotals",
        "Video",
    ),
    "contract.states": (
        "CommandOutcome",
        "EndReason",
        "Pose",
        "SessionState",
        "UtteranceOutcome",
    ),
    "errors": (
        "AccessFailed",
        "AnswerTimedOut",
        "AvatarNotAccepted",
        "AvatarSessionsError",
        "CommandExpired",
        "CommandRejected",
        "ConcurrencyLimit",
        "DurationOverPlan",
        "InvalidRequest",
        "LiveSpeechClosed",
        "LiveSpeechMisused",
        "LiveSpeechUnavailable",
        "LiveSpeechUnreachable",
        "NoAnswer",
        "NoCredits",
        "SealKeysUnusable",
        "SealMismatch",
        "ServiceUnreachable",
        "SessionFailed",
        "SessionNotFound",
        "SessionOver",
        "SessionTerminated",
        "StartTimedOut",
        "TemporalUnreachable",
        "TooManyAwaited",
        "Unauthorized",
        "UnexpectedAnswer",
        "UtteranceOver",
        "WorkersMissing",
    ),
    "live": ("LiveSpeech", "LiveUtterance"),
    "live_blocking": ("BlockingLiveSpeech", "BlockingUtterance"),
    "live_events": (
        "AvatarIdle",
        "AvatarListening",
        "AvatarTalking",
        "LiveEvent",
        "LiveEvents",
        "SessionMoved",
        "SpeechEnded",
        "SpeechInterrupted",
        "SpeechStateChanged",
    ),
    "seal": ("Seal", "SealError"),
    "session": ("Listing", "Session"),
    "settings": ("ClientSettings",),
}
_HOME_OF = {name: module for module, members in _HOMES.items() for name in members}

__all__ = [
    "Access",
    "AccessFailed",
    "AnswerTimedOut",
    "AvatarIdle",
    "AvatarListening",
    "AvatarNotAccepted",
    "AvatarSessions",
    "AvatarSessionsError",
    "AvatarTalking",
    "BlockingLiveSpeech",
    "BlockingUtterance",
    "CleanupReport",
    "ClientSettings",
    "Clip",
    "Command",
    "CommandExpired",
    "CommandOutcome",
    "CommandRejected",
    "CommandResult",
    "ConcurrencyLimit",
    "DurationOverPlan",
    "End",
    "EndReason",
    "Failure",
    "GenerationReport",
    "Interrupt",
    "InvalidRequest",
    "KeepAlive",
    "Listing",
    "LiveEvent",
    "LiveEvents",
    "LiveSpeech",
    "LiveSpeechClosed",
    "LiveSpeechMisused",
    "LiveSpeechUnavailable",
    "LiveSpeechUnreachable",
    "LiveUtterance",
    "NoAnswer",
    "NoCredits",
    "OwnRoom",
    "ParticipantAccess",
    "Pose",
    "Seal",
    "SealError",
    "SealKeysUnusable",
    "SealMismatch",
    "ServiceUnreachable",
    "Session",
    "SessionFailed",
    "SessionMoved",
    "SessionNotFound",
    "SessionOver",
    "SessionReport",
    "SessionRequest",
    "SessionState",
    "SessionStatus",
    "SessionTerminated",
    "SetPose",
    "Speak",
    "SpeakerTicket",
    "SpeechEnded",
    "SpeechGap",
    "SpeechInterrupted",
    "SpeechStateChanged",
    "StartTimedOut",
    "TemporalUnreachable",
    "TooManyAwaited",
    "Unauthorized",
    "UnexpectedAnswer",
    "UtteranceOutcome",
    "UtteranceOver",
    "UtteranceReport",
    "UtteranceTotals",
    "Video",
    "WorkersMissing",
]


def __getattr__(name: str) -> object:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    member: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = member
    return member


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
