"""What the demo prints: a few aligned lines, one for each step.

Formats and writes; decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from avatar_sessions.contract.reports import SessionReport, UtteranceReport
from avatar_sessions.contract.states import SessionState
from deploy.local.console import ProgressLine, Style
from deploy.local.errors import LocalError

_LABEL = 11
_WHAT = 22


class Screen:
    """Writes to one stream. `Supervisor`'s waits show as a line that rewrites itself."""

    def __init__(self, out: TextIO, *, colours: bool) -> None:
        self._out = out
        self._style = Style(enabled=colours and out.isatty())
        self._progress: ProgressLine | None = None
        self._gone = False
        self._session_began_at = time.monotonic()

    # ---------------------------------------------------------------- while things come up

    def title(self, subtitle: str) -> None:
        """The first line."""
        style = self._style
        self._line()
        self._line(f"  {style.bold('LiveAvatar sessions')}  {style.dim(subtitle)}")
        self._line()

    def waiting(self, name: str, waited_s: float) -> None:
        """A part is coming up; called many times a second."""
        if self._gone:
            return
        if self._progress is None:
            self._progress = ProgressLine(self._out, f"  {name:<{_LABEL}}")
        self._progress.update("starting" if waited_s < 10 else "still starting")

    def up(self, name: str, address: str, took_s: float) -> None:
        """A part is up."""
        self._end_progress()
        style = self._style
        shown = style.link(f"{address:<36}") if "://" in address else f"{address:<36}"
        self._line(f"  {name:<{_LABEL}}{shown}  {style.dim(f'{took_s:4.1f} s')}")

    # ---------------------------------------------------------------- the script

    def session(self, key: str, viewer_url: str, temporal_url: str) -> None:
        """The session exists: where to watch it."""
        style = self._style
        self._line()
        self._line(f"  {style.bold(f'Session {key}')}")
        self._line(f"  {'watch it':<{_LABEL}}{style.link(viewer_url)}")
        self._line(f"  {'workflow':<{_LABEL}}{style.link(temporal_url)}")
        self._line()
        self._session_began_at = time.monotonic()

    def step(self, what: str, detail: str = "") -> None:
        """A step, after the seconds since the session was requested."""
        self._end_progress()
        since = f"{time.monotonic() - self._session_began_at:6.1f} s"
        line = f"  {self._style.dim(since)}   {what:<{_WHAT}} {self._style.dim(detail)}"
        self._line(line.rstrip())

    def try_this(self, commands: Iterable[str]) -> None:
        """The commands for another terminal while the session stays open."""
        self._line()
        self._line("  Open until Ctrl-C. In another terminal, in this folder:")
        self._line()
        for command in commands:
            self._line(f"    {command}")
        self._line()

    # ---------------------------------------------------------------- the end

    def report(self, report: SessionReport, provider: dict[str, int], counted: str) -> None:
        """The session's report, and the provider's count; `counted` says by which source."""
        rows = [
            ("session", f"{report.state}: {report.end_reason.replace('_', ' ')}"),
            ("live", f"{report.live_ms / 1000:.1f} s, {_start(report)}"),
            ("billed", f"{sum(g.billed_s for g in report.generations):.1f} s at most"),
        ]
        labels = ["speech", *[""] * len(report.utterances)]
        texts = [*map(_utterance, report.utterances), _speech(report)]
        rows += zip(labels, texts, strict=True)
        rows += [("clean-up", problem) for problem in report.cleanup.problems]
        if report.failure is not None:
            rows.append(("failure", _one_line(report.failure.message)))
        self._line()
        self._line(f"  {self._style.bold('Report')}")
        for label, text in rows:
            self._line(f"  {label:<{_LABEL}}{text}")
        self._line()
        self._line(f"  {self._style.bold('Ledger')}  {self._style.dim(counted)}")
        counts = ", ".join(f"{provider[name]} {name}" for name in ("started", "stopped"))
        opened = f"{provider['open']} still open"
        good = provider["open"] == 0
        opened = self._style.good(opened) if good else self._style.bad(opened)
        self._line(f"  {'sessions':<{_LABEL}}{counts}, {opened}")
        self._line()

    def outcome(self, report: SessionReport, *, as_requested: bool) -> None:
        """The last line."""
        style = self._style
        if as_requested:
            self._line(f"  {style.good('Ended as requested; nothing is left open.')}")
        elif report.state is SessionState.FAILED:
            self._line(f"  {style.bad('The session failed; the report says why.')}")
        else:
            self._line(f"  {style.bad('The session did not end as requested.')}")
        self._line()

    def say(self, sentence: str) -> None:
        """A plain line."""
        self._end_progress()
        self._line(f"  {sentence}")

    def error(self, error: LocalError) -> None:
        """The lines that explain an error, then its sentence."""
        self.problem(error.sentence, error.detail)

    def problem(self, sentence: str, detail: Sequence[str] = ()) -> None:
        """As `error`, for a sentence and lines."""
        self._end_progress()
        self._line()
        for line in detail:
            self._line(f"    {self._style.dim(line)}")
        if detail:
            self._line()
        self._line(f"  {self._style.bad(f'{sentence[:1].upper()}{sentence[1:]}')}")
        self._line()

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.clear()
            self._progress = None

    def _line(self, text: str = "") -> None:
        # On a terminal the line may begin with the ^C that the user has just typed.
        if self._gone:
            return
        try:
            fresh = "\r\x1b[K" if self._out.isatty() else ""
            self._out.write(f"{fresh}{text}\n")
            self._out.flush()
        except OSError:  # the terminal was closed, or the reader of a pipe has ended:
            self._gone = True  # the session must still be ended


def _start(report: SessionReport) -> str:
    return "never live" if report.start_ms is None else f"after {report.start_ms} ms"


def _speech(report: SessionReport) -> str:
    totals = report.totals
    heard = f"{totals.sent_ms / 1000:.1f} s sent, {totals.heard_ms / 1000:.1f} s heard"
    return f"{totals.count} in all, {heard}"


def _utterance(utterance: UtteranceReport) -> str:
    return f"{_shortened(utterance.id):<10}{utterance.outcome:<13}{heard_of(utterance)}"


def _shortened(name: str, length: int = 8) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def heard_of(utterance: UtteranceReport) -> str:
    """How much of an utterance was heard, or why none of it was."""
    if utterance.failure is not None:
        return _one_line(utterance.failure.message)
    return f"{utterance.heard_ms / 1000:.1f} of {utterance.duration_ms / 1000:.1f} s heard"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def counts_of(ledger: dict[str, Any]) -> dict[str, int]:
    """The three counts of a ledger."""
    return {name: int(ledger[name]) for name in ("started", "stopped", "open")}
