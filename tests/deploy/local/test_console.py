"""Progress is one line that rewrites itself on a terminal, and a line now and then elsewhere."""

from __future__ import annotations

import io
import os
import pty
from collections.abc import Iterator

import pytest

from demo.screen import Screen
from deploy.local.console import PLAIN_INTERVAL_S, ProgressLine, Style


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def terminal() -> Iterator[tuple[io.TextIOWrapper, int]]:
    """Our side of a terminal to write to, and the number of the other side."""
    other, ours = pty.openpty()
    with os.fdopen(ours, "w") as stream:
        yield stream, other
    os.close(other)


def test_without_a_terminal_there_is_a_line_every_15_seconds() -> None:
    out, clock = io.StringIO(), Clock()
    progress = ProgressLine(out, "Temporal", clock)

    for _ in range(100):
        clock.now_s += PLAIN_INTERVAL_S / 10
        progress.update("compiling")

    assert len(out.getvalue().splitlines()) == 10
    assert "\r" not in out.getvalue()
    assert out.getvalue().splitlines()[0] == "Temporal: compiling (15 s)"


def test_on_a_terminal_the_line_rewrites_itself_and_goes_away(
    terminal: tuple[io.TextIOWrapper, int],
) -> None:
    stream, other = terminal
    clock = Clock()
    with ProgressLine(stream, "Temporal", clock) as progress:
        progress.update("compiling, 1 of 10 packages")
        clock.now_s += 1
        progress.update("compiling, 2 of 10 packages")

    shown = os.read(other, 4096).decode()
    assert "\n" not in shown
    assert shown.count("\r\x1b[K") == 3
    assert shown.endswith("\r\x1b[K")


def test_style_is_plain_text_where_colours_are_unwanted() -> None:
    assert Style(enabled=False).bold("x") == "x"
    assert Style(enabled=True).bold("x") != "x"


def test_a_closed_terminal_does_not_stop_what_is_being_told() -> None:
    """A demo whose window was closed still has a session to end."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        screen = Screen(stream, colours=False)

        screen.step("ending")
        screen.problem("more that nobody reads")

        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # lets it close in peace
