"""Progress is one line that rewrites itself on a terminal, and a line every 15 s elsewhere."""

from __future__ import annotations

import io
import os
import pty
from collections.abc import Iterator

import pytest

from demo.screen import Screen
from deploy.local.console import PLAIN_INTERVAL_S, ProgressLine, Style


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def terminal() -> Iterator[tuple[io.TextIOWrapper, int]]:
    """A terminal: the stream to write to, and the descriptor that reads what was written."""
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as stream:
        yield stream, reader
    os.close(reader)


def test_without_a_terminal_there_is_a_line_every_15_seconds() -> None:
    out, clock = io.StringIO(), Clock()
    progress = ProgressLine(out, "Temporal", clock)

    for _ in range(100):
        clock.now_s += PLAIN_INTERVAL_S / 10
        progress.update("compiling")

    assert len(out.getvalue().splitlines()) == 10
    assert "\r" not in out.getvalue()
    assert out.getvalue().splitlines()[0] == "Temporal: compiling (15 s)"


def test_on_a_terminal_the_line_rewrites_itself_and_is_erased(
    terminal: tuple[io.TextIOWrapper, int],
) -> None:
    stream, reader = terminal
    clock = Clock()
    with ProgressLine(stream, "Temporal", clock) as progress:
        progress.update("compiling, 1 of 10 packages")
        clock.now_s += 1
        progress.update("compiling, 2 of 10 packages")

    shown = ""
    while shown.count("\r\x1b[K") < 3:  # the kernel passes it on in pieces
        shown += os.read(reader, 4096).decode()
    assert "\n" not in shown
    assert shown.endswith("\r\x1b[K")


def test_style_is_plain_text_where_colours_are_unwanted() -> None:
    assert Style(enabled=False).bold("x") == "x"
    assert Style(enabled=True).bold("x") != "x"


def test_output_to_a_closed_terminal_is_dropped() -> None:
    """A demo whose window was closed must still end its session."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        screen = Screen(stream, colours=False)

        screen.step("ending")
        screen.problem("more output")

        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # so that it closes
