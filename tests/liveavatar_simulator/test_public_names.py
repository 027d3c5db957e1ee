"""The names that people may import from the package; changing one is a deliberate decision."""

from __future__ import annotations

import liveavatar_simulator

PUBLIC = [
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


def test_these_are_the_public_names() -> None:
    assert sorted(liveavatar_simulator.__all__) == PUBLIC


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(liveavatar_simulator, name) is not None for name in PUBLIC)
    assert set(PUBLIC) <= set(dir(liveavatar_simulator))


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(liveavatar_simulator, "NoSuchThing")
