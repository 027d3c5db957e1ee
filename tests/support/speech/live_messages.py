"""The live dialect's messages, one of each, and both roles of its core, ready to use."""

from __future__ import annotations

from typing import Final

from avatar_sessions.contract.live_dialect import (
    LiveInterrupted,
    LiveOver,
    LiveProgress,
    LiveReady,
    LiveState,
    OwnerMessage,
)
from avatar_sessions.contract.reports import SpeechGap, UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.live.protocol import OwnerProtocol, SpeakerProtocol
from liveavatar_lite.messages import (
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    AgentStart,
    AgentStartListening,
    AgentStopListening,
    Command,
    SessionKeepAlive,
)

READY: Final = LiveReady(session_key="k", epoch=(1, 1), generation=1)
PCM: Final = b"\1\2" * 240
COMMANDS_SENT: Final[tuple[Command, ...]] = (
    AgentSpeak(PCM, "u"),
    AgentSpeakEnd("u"),
    AgentInterrupt("i"),
    AgentStartListening("a"),
    AgentStopListening("b"),
    SessionKeepAlive("c"),
    AgentStart("pcm", 24_000, 1),
)
OWNER_SENDS: Final[tuple[OwnerMessage, ...]] = (
    READY,
    LiveState(state="recovering"),
    LiveProgress(utterance_id="u", received_bytes=8, sent_bytes=4, played_bytes=2),
    LiveInterrupted(event_id="i", utterance_id="u", heard_ms=7),
    LiveInterrupted(),
    LiveOver(
        utterance=UtteranceReport(
            id="u",
            outcome=UtteranceOutcome.COMPLETED,
            source="live",
            text="Words.",
            gaps=[SpeechGap(at_ms=1, duration_ms=2)],
        )
    ),
)


def owner(*, extended: bool = True, greeted: bool = True) -> OwnerProtocol:
    """The owner's role; ids of its events are "id"."""
    protocol = OwnerProtocol(extended=extended, make_id=lambda: "id")
    if greeted:
        protocol.greet(READY, "live")
    return protocol


def speaker(*, ready: bool = True) -> SpeakerProtocol:
    """The speaker's role."""
    protocol = SpeakerProtocol()
    if ready:
        protocol.receive(READY.model_dump_json())
    return protocol
