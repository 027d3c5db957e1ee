"""Output to a terminal: a progress line that rewrites itself, and ANSI styles.

Not a logger: logs go to files.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

# Without a terminal (CI logs) a new line this often, instead of one that rewrites itself.
PLAIN_INTERVAL_S = 15.0
TTY_INTERVAL_S = 0.1


class Style:
    """ANSI styles; plain text without a terminal or with NO_COLOR (no-color.org)."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.enabled else text

    def bold(self, text: str) -> str:
        return self._wrap("1", text)

    def dim(self, text: str) -> str:
        return self._wrap("2", text)

    def good(self, text: str) -> str:
        return self._wrap("32", text)

    def bad(self, text: str) -> str:
        return self._wrap("31", text)

    def link(self, text: str) -> str:
        return self._wrap("36", text)


class ProgressLine:
    """One line with the progress of a long step.

    On a terminal it rewrites itself; elsewhere a line is printed at most every 15 s.
    """

    def __init__(
        self, stream: TextIO, label: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._label = label
        self._clock = clock
        self._tty = stream.isatty()
        self._started_at = clock()
        self._shown_at = -math.inf if self._tty else self._started_at

    @property
    def elapsed_s(self) -> float:
        """Seconds since this step began."""
        return self._clock() - self._started_at

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def update(self, text: str) -> None:
        """Show `text` after the label, unless the line was rewritten just before."""
        now = self._clock()
        if now - self._shown_at < (TTY_INTERVAL_S if self._tty else PLAIN_INTERVAL_S):
            return
        self._shown_at = now
        line = f"{self._label}: {text} ({self.elapsed_s:.0f} s)"
        if self._tty:
            columns = os.get_terminal_size(self._stream.fileno()).columns or 80
            self._stream.write(f"\r\x1b[K{line[: columns - 1]}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Erase the line."""
        if self._tty:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
