"""A row is ok only if its bound and all invariants hold; otherwise it says why."""

from __future__ import annotations

import io
import json
from pathlib import Path

from chaos.environment.environment import Layout
from chaos.fault import BOTH, Fault
from chaos.invariants import Figures
from chaos.run import FaultRun, Violation
from chaos.table import Tally, about, print_table, write_markdown, write_report


async def nothing(run: FaultRun) -> None: ...


FAULT = Fault(
    name="owner-killed",
    what="kill -9: silence",
    inject=nothing,
    bound_ms={Layout.ALL: 3000, Layout.SPLIT: 1500},
    layouts=BOTH,
)


def tally(*measured_ms: float, layout: Layout = Layout.SPLIT) -> Tally:
    return Tally(FAULT, layout, runs=1, measured_ms=list(measured_ms), figures=[Figures()])


def test_a_row_within_its_bound_is_ok() -> None:
    row = tally(10, 20, 1500).row()
    assert row.ok
    assert (row.p50_ms, row.p99_ms, row.worst_ms, row.bound_ms) == (20, 1500, 1500, 1500)


def test_each_layout_has_its_own_bound() -> None:
    assert not tally(1501).row().ok
    assert tally(1501, layout=Layout.ALL).row().ok


def test_a_bound_without_figures_is_not_met() -> None:
    assert not tally().row().ok


def test_a_row_without_a_run_is_not_ok() -> None:
    assert not Tally(FAULT, Layout.ALL).row().ok


def test_one_problem_makes_a_row_not_ok() -> None:
    one = tally(1)
    one.problems.append(Violation("nothing is left open", "one is", "key-1"))
    assert not one.row().ok


def test_figures_of_all_runs_are_added_up() -> None:
    one = tally(1)
    one.figures = [
        Figures(
            leaked=1,
            sessions=3,
            billed_for_nothing_s=1.26,
            billed_for_nothing_worst_s=0.9,
            speech_lost_ms=10,
            speech_repeated_ms=5,
        ),
        Figures(
            leaked=0,
            sessions=2,
            billed_for_nothing_s=2.0,
            billed_for_nothing_worst_s=2.0,
            speech_lost_ms=1.5,
            speech_repeated_ms=0,
        ),
    ]
    row = one.row()
    assert (row.leaked, row.sessions, row.billed_for_nothing_s) == (1, 5, 3.3)
    assert row.billed_for_nothing_worst_s == 2.0
    assert (row.speech_lost_ms, row.speech_repeated_ms) == (11.5, 5)


def test_the_report_is_a_list_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    write_report(path, [tally(12).row()])
    (row,) = json.loads(path.read_text())
    required = {
        "fault",
        "layout",
        "runs",
        "bound_ms",
        "p50_ms",
        "p99_ms",
        "worst_ms",
        "leaked",
        "billed_for_nothing_s",
        "speech_lost_ms",
        "speech_repeated_ms",
        "ok",
    }
    assert required <= set(row)
    assert (row["fault"], row["layout"], row["ok"]) == ("owner-killed", "split", True)


def test_the_table_gives_the_reasons_of_a_failed_row() -> None:
    late = tally(1600)
    late.problems += [Violation("one owner speaks", f"sockets {n}", f"key-{n}") for n in range(5)]
    out = io.StringIO()
    print_table([tally(3).row(), late.row()], "some machine", out)
    text = out.getvalue()
    assert "p99 is 1600 ms, the bound 1500 ms" in text
    assert "one owner speaks: sockets 0 [session key-0]" in text
    assert "and 2 more of these" in text


def test_the_markdown_table_has_a_title_with_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    write_markdown(path, [tally(12).row()], about(took_s=90, seed=7))
    title, _, headings, ruler, row = path.read_text().splitlines()
    assert "cores" in title
    assert title.endswith("1.5 minutes, seed 7")
    assert headings.startswith("| fault | layout | runs | p50 ms |")
    assert len(ruler.split("|")) == len(headings.split("|")) == len(row.split("|"))
    assert row.startswith("| owner-killed | split | 1 | 12 | 12 | 12 | 1500 |")
