"""The names that the package exports, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import avatar_sessions

EXPORTS = [
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
    "WAYNE_AVATAR_ID",
    "WorkersMissing",
]


def test_these_are_the_exported_names() -> None:
    assert sorted(avatar_sessions.__all__) == EXPORTS
    assert all(getattr(avatar_sessions, name) is not None for name in EXPORTS)


def test_every_error_is_in_the_tree() -> None:
    errors = avatar_sessions.AvatarSessionsError
    raised = [getattr(avatar_sessions, name) for name in EXPORTS]
    classes = [one for one in raised if isinstance(one, type) and issubclass(one, Exception)]

    assert [one for one in classes if not issubclass(one, errors)] == [avatar_sessions.SealError]


def test_the_contract_is_imported_without_the_client() -> None:
    """The workflow sandbox imports it for each run: the client and the SDK stay outside."""
    program = (
        "import sys, avatar_sessions.contract.messages, avatar_sessions.seal;"
        "heavy = {'temporalio', 'httpx', 'pydantic_settings', 'avatar_sessions.client'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_sending_commands_does_not_import_live_speech() -> None:
    program = (
        "import sys, avatar_sessions;"
        "avatar_sessions.AvatarSessions, avatar_sessions.Session, avatar_sessions.UtteranceOver;"
        "heavy = {'websockets', 'numpy', 'soxr', 'liveavatar_lite', 'avatar_sessions.live.speech'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(avatar_sessions, "NoSuchThing")
    assert set(EXPORTS) <= set(dir(avatar_sessions))
