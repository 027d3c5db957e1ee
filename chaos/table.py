"""The results: one row for each fault and layout, as a printed table, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TextIO

from bench.table import machine, percentile
from chaos.environment.environment import Layout
from chaos.fault import Fault
from chaos.invariants import Figures
from chaos.run import Violation

MAX_REASONS: Final = 3
_HEADINGS: Final = (
    "fault",
    "layout",
    "runs",
    "p50 ms",
    "p99 ms",
    "worst",
    "bound",
    "leaked",
    "billed for nothing s",
    "worst s",
    "lost ms",
    "repeated ms",
    "ok",
    "what",
)
_WORDS: Final = frozenset({"fault", "layout", "ok", "what"})


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One row of the table."""

    fault: str
    layout: str
    runs: int
    """Injected faults; each may have several samples."""
    samples: int
    what: str
    bound_ms: float | None
    """The limit for p99; None: only the invariants count."""
    p50_ms: float | None
    p99_ms: float | None
    worst_ms: float | None
    leaked: int
    """LiveAvatar sessions that were still billed after the run."""
    sessions: int
    """LiveAvatar sessions that were billed, in all runs."""
    billed_for_nothing_s: float
    """Sum of the seconds billed after sessions were released, ordinary ends included."""
    billed_for_nothing_worst_s: float
    """The most that one LiveAvatar session adds to it."""
    speech_lost_ms: float
    speech_repeated_ms: float
    ok: bool
    problems: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """The data of one row while its runs go on."""

    fault: Fault
    layout: Layout
    runs: int = 0
    failed_runs: int = 0
    measured_ms: list[float] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    problems: list[Violation] = field(default_factory=list)

    def row(self) -> FaultRow:
        """The row with the results so far."""
        bound_ms, measured = self.fault.bound_in(self.layout), self.measured_ms
        p99_ms = percentile(measured, 99) if measured else None
        kept = bound_ms is None or (p99_ms is not None and p99_ms <= bound_ms)
        return FaultRow(
            fault=self.fault.name,
            layout=self.layout.value,
            runs=self.runs,
            samples=len(measured),
            what=self.fault.what,
            bound_ms=bound_ms,
            p50_ms=_rounded(percentile(measured, 50)) if measured else None,
            p99_ms=_rounded(p99_ms),
            worst_ms=_rounded(max(measured)) if measured else None,
            leaked=sum(one.leaked for one in self.figures),
            sessions=sum(one.sessions for one in self.figures),
            billed_for_nothing_s=round(sum(one.billed_for_nothing_s for one in self.figures), 1),
            billed_for_nothing_worst_s=round(
                max((one.billed_for_nothing_worst_s for one in self.figures), default=0.0), 1
            ),
            speech_lost_ms=round(sum(one.speech_lost_ms for one in self.figures), 1),
            speech_repeated_ms=round(sum(one.speech_repeated_ms for one in self.figures), 1),
            ok=self.runs > 0 and kept and not self.problems,
            problems=[str(one) for one in self.problems],
        )


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 1)


def write_report(path: Path, rows: Iterable[FaultRow]) -> None:
    """Write the rows as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def about(took_s: float, seed: int) -> str:
    """The machine and the run in one line."""
    here = machine()
    return (
        f"{here['cpu']}, {here['cores']} cores, Python {here['python']};"
        f" {took_s / 60:.1f} minutes, seed {seed}"
    )


def print_table(rows: Sequence[FaultRow], title: str, out: TextIO) -> None:
    """Print the title and the rows, then the reasons of the rows that are not ok."""
    print(f"\n{title}\n", file=out)
    lines = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    for line in lines:
        cells = [
            cell.ljust(width) if heading in _WORDS else cell.rjust(width)
            for heading, cell, width in zip(_HEADINGS, line, widths, strict=True)
        ]
        print("  ".join(cells).rstrip(), file=out)
    for row in rows:
        if not row.ok:
            _print_reasons(row, out)


def write_markdown(path: Path, rows: Sequence[FaultRow], title: str) -> None:
    """Write the title and the rows as a Markdown table for the documentation."""
    ruler = ["---" if heading in _WORDS else "---:" for heading in _HEADINGS]
    lines = [_HEADINGS, ruler, *(_cells(row) for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    path.write_text(f"{title}\n\n{table}\n")


def _print_reasons(row: FaultRow, out: TextIO) -> None:
    print(f"\n{row.fault} ({row.layout}) is not ok:", file=out)
    if row.bound_ms is not None and row.p99_ms is not None and row.p99_ms > row.bound_ms:
        print(f"  p99 is {row.p99_ms:.0f} ms, the bound {row.bound_ms:.0f} ms", file=out)
    kinds: dict[str, list[str]] = {}
    for problem in row.problems:
        kinds.setdefault(problem.partition(":")[0], []).append(problem)
    for problems in kinds.values():
        for problem in problems[:MAX_REASONS]:
            print(f"  {problem}", file=out)
        if len(problems) > MAX_REASONS:
            print(f"  … and {len(problems) - MAX_REASONS} more of these", file=out)


def _cells(row: FaultRow) -> tuple[str, ...]:
    return (
        row.fault,
        row.layout,
        str(row.runs),
        _whole(row.p50_ms),
        _whole(row.p99_ms),
        _whole(row.worst_ms),
        _whole(row.bound_ms),
        str(row.leaked),
        f"{row.billed_for_nothing_s:.1f}",
        f"{row.billed_for_nothing_worst_s:.1f}",
        f"{row.speech_lost_ms:.0f}",
        f"{row.speech_repeated_ms:.0f}",
        "yes" if row.ok else "NO",
        row.what,
    )


def _whole(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.0f}"
