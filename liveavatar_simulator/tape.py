"""What a session did, as lines of the ledger: the commands that came, what became of the speech.

Only words and numbers: no audio, no address.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from liveavatar_lite.audio import duration_s
from liveavatar_lite.messages import (
    Command,
    Interrupt,
    KeepAlive,
    Speak,
    SpeakEnd,
    Start,
    StartListening,
    StopListening,
)

from .ledger import CommandLine, UtteranceLine
from .playback import Utterance

_COMMAND_TYPES: Final[dict[type[Command], str]] = {
    Speak: "agent.speak",
    SpeakEnd: "agent.speak_end",
    Interrupt: "agent.interrupt",
    StartListening: "agent.start_listening",
    StopListening: "agent.stop_listening",
    KeepAlive: "session.keep_alive",
    Start: "start",
}


class Tape:
    """The newest commands of one session."""

    def __init__(self, length: int) -> None:
        self._commands: deque[CommandLine] = deque(maxlen=length)

    def command(self, command: Command, *, after_s: float) -> None:
        """A command came, so long after the session's start."""
        pcm = command.audio if isinstance(command, Speak | SpeakEnd) else None
        self._commands.append(
            CommandLine(
                type=_COMMAND_TYPES[type(command)],
                at_ms=round(after_s * 1000),
                event_id=None if isinstance(command, Start) else command.event_id,
                pcm_ms=None if pcm is None else ms_of(len(pcm)),
            )
        )

    @property
    def commands(self) -> list[CommandLine]:
        """Oldest first."""
        return list(self._commands)


def utterance_line(utterance: Utterance) -> UtteranceLine:
    """An utterance as the ledger shows it."""
    return UtteranceLine(
        event_id=utterance.event_id,
        sent_ms=ms_of(utterance.sent_bytes),
        played_ms=ms_of(utterance.played_bytes),
        outcome=utterance.state.value,
    )


def ms_of(pcm_bytes: int) -> float:
    """How long that much PCM sounds, in milliseconds."""
    return round(duration_s(pcm_bytes) * 1000, 3)
