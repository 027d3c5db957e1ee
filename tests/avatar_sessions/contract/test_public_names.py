"""The classes of the contract: adding or removing one is a deliberate decision."""

from __future__ import annotations

from importlib import import_module

import pytest

PUBLIC = {
    "messages": [
        "Attach",
        "Clip",
        "CommandBase",
        "End",
        "Incoming",
        "Interrupt",
        "KeepAlive",
        "OwnRoom",
        "OwnerLost",
        "SessionRequest",
        "SetPose",
        "Speak",
        "Video",
    ],
    "reports": [
        "CleanupReport",
        "CommandResult",
        "Failure",
        "GenerationReport",
        "IgnoredMessage",
        "Outgoing",
        "RoomAccess",
        "SealedAccess",
        "SessionReport",
        "SessionStatus",
        "SpeakerAccess",
        "SpeechGap",
        "UtteranceReport",
        "UtteranceTotals",
    ],
    "activities": [
        "ActivityPayload",
        "CleanRoom",
        "CleanedRoom",
        "ClipCursor",
        "ClipSpoken",
        "CommandDelivered",
        "CreateRoom",
        "CreatedRoom",
        "DeliverCommand",
        "ErrorType",
        "GrantAccess",
        "GrantSpeaker",
        "GrantedAccess",
        "GrantedSpeaker",
        "MintToken",
        "MintedSession",
        "OwnerHeartbeat",
        "OwnerReady",
        "OwnerRecovering",
        "SessionStarted",
        "SpeakClip",
        "StartSession",
        "StopSession",
        "StoppedSession",
        "StreamAudio",
        "StreamEnd",
        "StreamResult",
        "UtteranceLines",
    ],
    "janitor": [
        "Decision",
        "JanitorFinding",
        "JanitorRound",
        "JanitorTotals",
        "RoomFinding",
        "SessionFinding",
    ],
    "states": [
        "AlertKind",
        "CommandOutcome",
        "EndReason",
        "IllegalSessionTransition",
        "Pose",
        "SessionState",
        "UtteranceOutcome",
    ],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_these_are_the_classes_of_the_contract(module: str) -> None:
    name = f"avatar_sessions.contract.{module}"
    members = vars(import_module(name)).items()

    assert (
        sorted(
            key for key, value in members if isinstance(value, type) and value.__module__ == name
        )
        == PUBLIC[module]
    )
