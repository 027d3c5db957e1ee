"""Records a session's sockets and commands, and renders utterances, as lines of the ledger.

Names and numbers only: no audio, no address.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from liveavatar_lite.audio import duration_s
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

from .ledger import CommandLine, SilenceLine, SocketLine, UtteranceLine
from .playback import SpokenUtterance

_COMMAND_TYPES: Final[dict[type[Command], str]] = {
    AgentSpeak: "agent.speak",
    AgentSpeakEnd: "agent.speak_end",
    AgentInterrupt: "agent.interrupt",
    AgentStartListening: "agent.start_listening",
    AgentStopListening: "agent.stop_listening",
    SessionKeepAlive: "session.keep_alive",
    AgentStart: "start",
}


SOCKETS_KEPT: Final = 200


class Tape:
    """The newest commands and sockets of one session."""

    def __init__(self, length: int) -> None:
        self._commands: deque[CommandLine] = deque(maxlen=length)
        self._sockets: deque[SocketLine] = deque(maxlen=SOCKETS_KEPT)

    def socket_opened(self, number: int) -> None:
        """A client connected."""
        line = SocketLine(number=number, opened_at=datetime.now(UTC), closed_at=None)
        self._sockets.append(line)

    def socket_closed(self, number: int) -> None:
        """The client's connection was closed."""
        for line in self._sockets:
            if line.number == number:
                line.closed_at = datetime.now(UTC)

    def command(self, command: Command, *, after_s: float, socket: int) -> None:
        """A command arrived on this socket, ``after_s`` after the session's start."""
        pcm = command.audio if isinstance(command, AgentSpeak | AgentSpeakEnd) else None
        self._commands.append(
            CommandLine(
                type=_COMMAND_TYPES[type(command)],
                at_ms=round(after_s * 1000),
                socket=socket,
                event_id=None if isinstance(command, AgentStart) else command.event_id,
                pcm_ms=None if pcm is None else ms_of(len(pcm)),
            )
        )

    @property
    def commands(self) -> list[CommandLine]:
        """Oldest first."""
        return list(self._commands)

    @property
    def sockets(self) -> list[SocketLine]:
        """The current state of each, oldest first."""
        return [line.model_copy() for line in self._sockets]


def utterance_line(utterance: SpokenUtterance, at: Callable[[float], datetime]) -> UtteranceLine:
    """An utterance as the ledger shows it.

    Args:
        at: converts the playback's clock to a date.
    """
    began_s = utterance.began_s
    return UtteranceLine(
        event_id=utterance.event_id,
        sent_ms=ms_of(utterance.sent_bytes),
        played_ms=ms_of(utterance.played_bytes),
        outcome=utterance.state.value,
        began_at=None if began_s is None else at(began_s),
        ended_at=at(utterance.sounded_until_s) if began_s is not None and utterance.over else None,
        silences=[
            SilenceLine(
                at_ms=round((each.begin_s - (began_s or 0.0)) * 1000, 3),
                duration_ms=round((each.end_s - each.begin_s) * 1000, 3),
            )
            for each in utterance.silences
        ],
    )


def ms_of(pcm_bytes: int) -> float:
    """The duration of that much PCM, in milliseconds."""
    return round(duration_s(pcm_bytes) * 1000, 3)
