"""``make chaos``, or ``python -m chaos [--rounds N] [--only FAULT,...] [--layout all|split]``.

Breaks real processes and prints one table. Exit status 0 only if every row is ok.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chaos.environment.environment import Layout
from chaos.faults import FAULTS
from chaos.runner import ChaosResult, run_folder
from chaos.table import about, print_table, write_markdown, write_report
from deploy.local.binaries import interrupt_on_sigterm
from deploy.local.errors import LocalError

ROUNDS: Final = 20
FOLDERS_KEPT: Final = 5
INTERRUPTED: Final = 130


def main(words: Sequence[str] | None = None) -> int:
    """Run the faults, print the table and write the report; 0 if every row is ok."""
    options = _parser().parse_args(words)
    interrupt_on_sigterm()
    folder = run_folder()
    _remove_old_folders(folder.parent)
    folder.mkdir(parents=True)
    logging.basicConfig(
        filename=folder / "runner.log",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    report = options.report or folder / "report.json"
    print(f"running faults: logs, histories and report in {folder}", file=sys.stderr)
    began_s = time.monotonic()
    faults = [FAULTS[name] for name in options.only]
    result = ChaosResult(faults, options.layout, options.rounds, options.seed, folder)
    status: int | None = None
    try:
        asyncio.run(result.run())
    except LocalError as error:
        print("\n".join((*error.detail, error.sentence)), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: all child processes have ended", file=sys.stderr)
        status = INTERRUPTED
    except Exception:
        traceback.print_exc()  # a bug in the runner: rows measured before it still count
        status = 1
    rows = result.rows()
    title = about(time.monotonic() - began_s, options.seed)
    print_table(rows, title, sys.stdout)
    write_report(report, rows)
    write_markdown(folder / "table.md", rows, title)
    for line in result.skipped:
        print(f"\n{line}")
    print(f"\nreport: {report}, the table for a page: {folder / 'table.md'}")
    if status is None:
        status = 0 if rows and all(row.ok for row in rows) else 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description="Break real processes; check the bill and the speech."
    )
    parser.add_argument(
        "--rounds", type=_count, default=ROUNDS, metavar="N", help="runs of every row"
    )
    parser.add_argument(
        "--only",
        type=_names,
        default=list(FAULTS),
        metavar="FAULT,...",
        help=f"some of: {', '.join(FAULTS)}",
    )
    parser.add_argument(
        "--layout",
        type=lambda text: [Layout(text)],
        default=list(Layout),
        metavar="all|split",
        help="all roles in one process, or split; default: both, where it matters",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="where the JSON goes")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="S", help="where in an utterance faults strike"
    )
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no fault {', '.join(unknown)}: choose from {', '.join(FAULTS)}"
        )
    return names


def _remove_old_folders(folder: Path) -> None:
    old = sorted(folder.glob("chaos-*"), key=lambda path: path.stat().st_mtime)
    for path in old[: -FOLDERS_KEPT + 1]:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
