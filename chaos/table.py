"""What came out: one row a fault and layout, as a table for people and a list for programs."""

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
    """One line."""

    fault: str
    layout: str
    runs: int
    """Injected faults, each in one world; each may have several samples."""
    samples: int
    what: str
    bound_ms: float | None
    """For p99; None: only the invariants count."""
    p50_ms: float | None
    p99_ms: float | None
    worst_ms: float | None
    leaked: int
    """Sessions that were billed and that nobody stopped."""
    sessions: int
    """LiveAvatar sessions that were billed, in all runs."""
    billed_for_nothing_s: float
    """Sum of the seconds beyond the moment nobody wanted them, an ordinary end's included."""
    billed_for_nothing_worst_s: float
    """Of one LiveAvatar session."""
    speech_lost_ms: float
    speech_repeated_ms: float
    ok: bool
    problems: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """One row while it is being made."""

    fault: Fault
    layout: Layout
    runs: int = 0
    failed_runs: int = 0
    measured_ms: list[float] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    problems: list[Violation] = field(default_factory=list)

    def row(self) -> FaultRow:
        """As it stands now."""
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
    """What the figures stand for, in a line."""
    here = machine()
    return (
        f"{here['cpu']}, {here['cores']} cores, Python {here['python']};"
        f" {took_s / 60:.1f} minutes, seed {seed}"
    )


def print_table(rows: Sequence[FaultRow], title: str, out: TextIO) -> None:
    """Print what the figures stand for, the rows, and why those that are not ok are not."""
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
    """Write the same for a page of the documentation."""
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
