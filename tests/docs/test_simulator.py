"""The documentation's example runs, and its lists of settings and faults are complete."""

from __future__ import annotations

import re
from typing import Any

from deploy.local.settings import ROOT
from liveavatar_simulator import Faults, SimulatorSettings
from tests.support.markdown import blocks_run_as

PAGE = ROOT / "docs" / "internals" / "simulator.md"
DOCS = PAGE.read_text(encoding="utf-8")


async def test_the_example_runs_as_it_stands() -> None:
    [example] = blocks_run_as("simulator")
    names: dict[str, Any] = {}
    exec(compile(example, "docs/internals/simulator.md", "exec"), names)  # noqa: S102

    await names["test_my_agent_greets_and_stops"]()


def test_every_setting_and_every_fault_is_documented() -> None:
    documented = set(re.findall(r"`(\w+)`", DOCS))

    assert set(SimulatorSettings.model_fields) <= documented
    assert set(Faults.model_fields) <= documented
