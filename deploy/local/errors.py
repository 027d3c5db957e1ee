"""Errors of the local stack; the message of each says what to do.

LocalError                 shown to the user as one sentence, never as a traceback
├── ServerUnavailable      a server is neither running, installed nor buildable here
├── BuildFailed            the compiler failed; carries its last lines
├── PortInUse              another process listens on a port that the stack needs
├── ProcessDied            a child ended by itself; carries its last lines
└── StartTimeout           a child runs but did not become ready in time
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class LocalError(Exception):
    """An error of this machine or this stack; `detail` holds lines to show with the sentence."""

    def __init__(self, sentence: str, detail: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.detail = tuple(detail)


class ServerUnavailable(LocalError):
    """A server is neither running, installed nor buildable on this machine."""


class BuildFailed(LocalError):
    """Building a pinned server failed."""


class PortInUse(LocalError):
    """Another process listens on a port that the stack needs."""


class ProcessDied(LocalError):
    """A child ended by itself."""

    def __init__(self, name: str, status: int, last_lines: Sequence[str], log: Path) -> None:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        super().__init__(f"{name} ended by itself ({how}); its log is {log}", last_lines)
        self.name = name
        self.status = status


class StartTimeout(LocalError):
    """A child runs but did not become ready within its time limit."""

    def __init__(self, name: str, waited_s: float, last_lines: Sequence[str], log: Path) -> None:
        super().__init__(
            f"{name} was not ready after {waited_s:.0f} s; its log is {log}", last_lines
        )
        self.name = name
