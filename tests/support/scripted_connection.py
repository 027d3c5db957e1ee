"""A LITE connection without a socket, which records the commands that are sent."""

from __future__ import annotations

import time
from typing import cast

from liveavatar_lite import ConnectionFailed, LiteConnection


class ScriptedConnection:
    """Stands in for `LiteConnection` where only commands are sent.

    Attributes:
        commands: what was sent: the command, and the id it is about.
        broken: whether sending fails.
    """

    def __init__(self, *, acknowledges: bool = True) -> None:
        self.commands: list[tuple[str, str | None]] = []
        self.broken = False
        self.open_utterance: str | None = None
        self.chunks_sent = 0
        self.chunks_acked = 0
        self._acknowledges = acknowledges

    @property
    def last_heard_s(self) -> float:
        return time.monotonic()

    async def speak(self, pcm: bytes, utterance_id: str) -> None:
        self._send("speak", utterance_id)
        self.open_utterance = utterance_id
        self.chunks_sent += 1
        self.chunks_acked += self._acknowledges

    async def speak_end(self, utterance_id: str) -> None:
        self._send("speak_end", utterance_id)
        self.open_utterance = None

    async def interrupt(self, event_id: str | None = None) -> None:
        self._send("interrupt", event_id)
        self.open_utterance = None

    def adopt(self, utterance_id: str) -> None:
        self.commands.append(("adopt", utterance_id))
        self.open_utterance = utterance_id

    def as_connection(self) -> LiteConnection:
        return cast(LiteConnection, self)

    def _send(self, command: str, about: str | None) -> None:
        if self.broken:
            raise ConnectionFailed("the test broke the connection")
        self.commands.append((command, about))
