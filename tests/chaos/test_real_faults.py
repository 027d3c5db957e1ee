"""A selection of faults, once each, on real processes: all invariants hold.

Bounds are wide, because other tests run on the same machine. `make chaos` checks the real ones.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from chaos.environment.environment import Layout
from chaos.fault import Fault, MachineLoad
from chaos.faults import FAULTS
from chaos.faults.owners import drain_5
from chaos.runner import ChaosResult
from chaos.table import FaultRow
from deploy.local.temporal import TemporalServer

CHOSEN = (
    "nothing",
    "end",
    "cancel",
    "terminate",
    "owner-killed",
    "drain-5",
    "lost-start-reply",
    "socket-drop",
    "rotation",
    "room-end",
    "clock-jump",
)
MISSING = {name: why for name, fault in FAULTS.items() if (why := fault.missing())}


def chosen() -> list[Fault]:
    faults = {
        **FAULTS,
        "drain-5": replace(
            FAULTS["drain-50"], name="drain-5", inject=drain_5, load=MachineLoad.WORKS
        ),
    }
    return [replace(faults[name], bound_ms=None) for name in CHOSEN]


@pytest_asyncio.fixture(scope="session")
async def rows(temporal: TemporalServer, run_folder: Path) -> dict[str, FaultRow]:
    """The rows by fault; the `temporal` fixture makes sure that its binary is installed."""
    all_rows = await ChaosResult(chosen(), [Layout.SPLIT], 1, 1, run_folder / "chaos").run()
    return {row.fault: row for row in all_rows}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", CHOSEN)
async def test_a_fault_leaves_nothing_behind(rows: dict[str, FaultRow], fault: str) -> None:
    if fault in MISSING:
        pytest.skip(MISSING[fault])
    row = rows[fault]
    assert row.problems == []
    assert (row.runs, row.leaked, row.ok) == (1, 0, True)
    assert row.speech_lost_ms == 0


@pytest.mark.timeout(400)
async def test_a_run_leaves_no_process_port_or_secret_behind(rows: dict[str, FaultRow]) -> None:
    assert "after all" not in rows
