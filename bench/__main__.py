"""``make bench``, or ``python -m bench [--only ROW,...] [--quick]``: one table of figures.

Also writes ``bench/report.json``. A missed target is reported and does not fail the run: the exit
status is 1 only if a measurement broke.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.lab import Lab
from bench.rows import MEASUREMENTS
from bench.table import FigureRow, print_table, write_report
from deploy.local.errors import LocalError

REPORT: Final = Path(__file__).with_name("report.json")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the report; 1 if a measurement broke."""
    options = _parser().parse_args(words)
    rows, broken = asyncio.run(_measure(options.only, quick=options.quick))
    print_table(rows, sys.stdout)
    write_report(options.report, rows)
    if broken:
        print(f"\nbroken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure on this machine.")
    parser.add_argument(
        "--only",
        type=_names,
        default=list(MEASUREMENTS),
        metavar="ROW,...",
        help=f"some of: {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument(
        "--report", type=Path, default=REPORT, metavar="FILE", help="where the JSON goes"
    )
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no row {', '.join(unknown)}: choose from {', '.join(MEASUREMENTS)}"
        )
    return names


async def _measure(names: Sequence[str], *, quick: bool) -> tuple[list[FigureRow], list[str]]:
    """The rows, and the measurements that broke; a broken one does not stop the rest."""
    rows: list[FigureRow] = []
    broken: list[str] = []
    async with Lab(quick=quick) as lab:
        for name in names:
            print(f"measuring: {name}", file=sys.stderr)
            try:
                rows += await MEASUREMENTS[name].measure(lab)
            except LocalError as error:
                print("\n".join((*error.detail, error.sentence)), file=sys.stderr)
                broken.append(name)
            except Exception:
                traceback.print_exc()
                broken.append(name)
    return rows, broken


if __name__ == "__main__":
    sys.exit(main())
