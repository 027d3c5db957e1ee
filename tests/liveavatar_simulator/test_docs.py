"""The documentation's example runs, and its lists of settings and faults are complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import liveavatar_simulator
from liveavatar_simulator import Faults, SimulatorSettings

DOCS = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")


async def test_the_example_runs_as_it_stands() -> None:
    [example] = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/simulator.md", "exec"), names)  # noqa: S102

    await names["test_my_agent_greets_and_stops"]()


def test_every_setting_and_every_fault_is_documented() -> None:
    documented = set(re.findall(r"`(\w+)`", DOCS))

    assert set(SimulatorSettings.model_fields) <= documented
    assert set(Faults.model_fields) <= documented


def test_the_public_names_are_these() -> None:
    assert sorted(liveavatar_simulator.__all__) == [
        "AddressInUse",
        "AtLimit",
        "AudioRecording",
        "BillingLedger",
        "CATALOGUE",
        "CommandLine",
        "Correlation",
        "DEFAULT_API_KEY",
        "Faults",
        "LiveAvatarSimulator",
        "Refusal",
        "RoomUnreachable",
        "SessionLine",
        "SilenceLine",
        "SimulatedPhase",
        "SimulatedSession",
        "SimulatorSettings",
        "SocketLine",
        "SpeechSignals",
        "UtteranceLine",
    ]
