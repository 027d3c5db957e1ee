"""Durable LiveAvatar sessions: the client that a backend installs.

Names are imported on first use, so that the workflow sandbox and the workers import
``avatar_sessions.contract`` without the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avatar_sessions.access import Access, ParticipantAccess, SpeakerTicket
    from avatar_sessions.client import AvatarSessions
    from avatar_sessions.contract.messages import (
        Clip,
        Command,
        End,
        Interrupt,
        KeepAlive,
        OwnRoom,
        SessionRequest,
        SetPose,
        Speak,
        Video,
    )
    from avatar_sessions.contract.names import WAYNE_AVATAR_ID
    from avatar_sessions.contract.reports import (
        CleanupReport,
        CommandResult,
        Failure,
        GenerationReport,
        SessionReport,
        SessionStatus,
        SpeechGap,
        UtteranceReport,
        UtteranceTotals,
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
        InvalidArgument,
        InvalidMessage,
        InvalidRequest,
        InvalidSessionKey,
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
    from avatar_sessions.live.blocking import BlockingLiveSpeech, BlockingUtterance
    from avatar_sessions.live.events import (
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
    from avatar_sessions.live.speech import LiveSpeech
    from avatar_sessions.live.utterance import LiveUtterance
    from avatar_sessions.seal import Seal, SealError
    from avatar_sessions.session import Listing, Session
    from avatar_sessions.settings import ClientSettings

_HOMES = {
    "access": ("Access", "ParticipantAccess", "SpeakerTicket"),
    "client": ("AvatarSessions",),
    "contract.messages": (
        "Clip",
        "Command",
        "End",
        "Interrupt",
        "KeepAlive",
        "OwnRoom",
        "SessionRequest",
        "SetPose",
        "Speak",
        "Video",
    ),
    "contract.names": ("WAYNE_AVATAR_ID",),
    "contract.reports": (
        "CleanupReport",
        "CommandResult",
        "Failure",
        "GenerationReport",
        "SessionReport",
        "SessionStatus",
        "SpeechGap",
        "UtteranceReport",
        "UtteranceTotals",
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
        "InvalidArgument",
        "InvalidMessage",
        "InvalidRequest",
        "InvalidSessionKey",
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
    "live.speech": ("LiveSpeech",),
    "live.utterance": ("LiveUtterance",),
    "live.blocking": ("BlockingLiveSpeech", "BlockingUtterance"),
    "live.events": (
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
    "WAYNE_AVATAR_ID",
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
    "InvalidArgument",
    "InvalidMessage",
    "InvalidRequest",
    "InvalidSessionKey",
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
