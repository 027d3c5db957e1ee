"""Rows of figures, the machine they were measured on, the printed table and the JSON report.

Measures nothing; a missed target is only marked in its row.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Final, TextIO

_CPU_INFO: Final = Path("/proc/cpuinfo")
_NUMBERS: Final = frozenset({"n", "p50", "p99", "max"})
_HEADINGS: Final = ("row", "what", "n", "p50", "p99", "max", "unit", "target", "reached")


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One row of the table: percentiles of many figures, or one `value`."""

    row: str
    """The name of its measurement, as in ``--only``."""
    what: str
    n: int
    """Number of samples."""
    unit: str
    p50: float | None = None
    p99: float | None = None
    max: float | None = None
    value: float | None = None
    target: str | None = None
    """As text, such as ``p50 <= 120, p99 <= 250``; None: no target."""
    reached: bool | None = None
    """Whether the target was met; None: no target."""


def percentile(figures: Sequence[float], percent: float) -> float:
    """The smallest figure that at least `percent` of the figures do not exceed.

    Raises:
        ValueError: there are no figures.
    """
    if not figures:
        raise ValueError("there are no figures: nothing was measured")
    ordered = sorted(figures)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def spread(
    row: str,
    what: str,
    figures: Sequence[float],
    unit: str,
    *,
    p50_at_most: float | None = None,
    p99_at_most: float | None = None,
) -> FigureRow:
    """A row for many figures, with optional limits for its percentiles."""
    p50, p99 = percentile(figures, 50), percentile(figures, 99)
    limits = [("p50", p50, p50_at_most), ("p99", p99, p99_at_most)]
    asked = [(name, figure, limit) for name, figure, limit in limits if limit is not None]
    return FigureRow(
        row=row,
        what=what,
        n=len(figures),
        unit=unit,
        p50=_rounded(p50),
        p99=_rounded(p99),
        max=_rounded(max(figures)),
        target=", ".join(f"{name} <= {limit:g}" for name, _, limit in asked) or None,
        reached=all(figure <= limit for _, figure, limit in asked) if asked else None,
    )


def single(
    row: str,
    what: str,
    value: float,
    unit: str,
    *,
    n: int,
    at_most: float | None = None,
    at_least: float | None = None,
) -> FigureRow:
    """A row for one figure, with optional limits."""
    asked = [(sign, limit) for sign, limit in (("<=", at_most), (">=", at_least)) if limit]
    reached = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    return FigureRow(
        row=row,
        what=what,
        n=n,
        unit=unit,
        value=_rounded(value),
        target=", ".join(f"{sign} {limit:g}" for sign, limit in asked) or None,
        reached=reached if asked else None,
    )


def _rounded(figure: float) -> float:
    """Three decimals: one microsecond in milliseconds."""
    return round(figure, 3)


def machine() -> dict[str, str | int]:
    """The machine: cores, processor, architecture and Python's version."""
    model = platform.processor() or platform.machine()
    if _CPU_INFO.exists():
        lines = _CPU_INFO.read_text().splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    return {
        "cores": os.cpu_count() or 0,
        "cpu": model,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def write_report(path: Path, rows: Iterable[FigureRow]) -> None:
    """Write the machine and the rows as JSON."""
    report = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(report, indent=2) + "\n")


def print_table(rows: Iterable[FigureRow], out: TextIO) -> None:
    """Print the machine and the rows; a single value is in the p50 column."""
    about = machine()
    print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}\n", file=out)
    lines = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    for line in lines:
        cells = [
            cell.rjust(width) if heading in _NUMBERS else cell.ljust(width)
            for heading, cell, width in zip(_HEADINGS, line, widths, strict=True)
        ]
        print("  ".join(cells).rstrip(), file=out)


def _cells(row: FigureRow) -> tuple[str, ...]:
    middle = row.value if row.p50 is None else row.p50
    figures = ("" if each is None else f"{each:.4g}" for each in (middle, row.p99, row.max))
    reached = {None: "", True: "yes", False: "NO"}[row.reached]
    return (row.row, row.what, str(row.n), *figures, row.unit, row.target or "", reached)
