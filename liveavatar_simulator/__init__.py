"""A true-to-life LiveAvatar (LITE mode), for development without an API key, and for tests.

REST, media WebSocket, an avatar in a real LiveKit room, a billing ledger, injected faults. What is
assumed about LiveAvatar rather than known is marked in the simulator's documentation.

Names are imported on first use: without the extra ``simulator``, the command can say what is
missing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .faults import Faults
    from .ledger import (
        BillingLedger,
        CommandLine,
        SessionLine,
        SilenceLine,
        SocketLine,
        UtteranceLine,
    )
    from .media.avatar import RoomUnreachable
    from .media.recording import AudioRecording
    from .service.error_replies import Refusal
    from .service.http_server import AddressInUse
    from .session import SimulatedPhase, SimulatedSession
    from .settings import (
        CATALOGUE,
        DEFAULT_API_KEY,
        AtLimit,
        Correlation,
        SimulatorSettings,
        SpeechSignals,
    )
    from .simulator import LiveAvatarSimulator

_HOMES = {
    "faults": ("Faults",),
    "ledger": (
        "BillingLedger",
        "CommandLine",
        "SessionLine",
        "SilenceLine",
        "SocketLine",
        "UtteranceLine",
    ),
    "media.avatar": ("RoomUnreachable",),
    "media.recording": ("AudioRecording",),
    "service.http_server": ("AddressInUse",),
    "service.error_replies": ("Refusal",),
    "session": ("SimulatedPhase", "SimulatedSession"),
    "settings": (
        "CATALOGUE",
        "DEFAULT_API_KEY",
        "AtLimit",
        "Correlation",
        "SimulatorSettings",
        "SpeechSignals",
    ),
    "simulator": ("LiveAvatarSimulator",),
}
_HOME_OF = {name: module for module, members in _HOMES.items() for name in members}

__all__ = [
    "CATALOGUE",
    "DEFAULT_API_KEY",
    "AddressInUse",
    "AtLimit",
    "AudioRecording",
    "BillingLedger",
    "CommandLine",
    "Correlation",
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


def __getattr__(name: str) -> object:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    member: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = member
    return member


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
