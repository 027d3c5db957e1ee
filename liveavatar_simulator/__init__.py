"""A true-to-life LiveAvatar (LITE mode) for those without an API key, and for tests.

REST, media WebSocket, an avatar in a real LiveKit room, a ledger of what was asked, faults on
demand. It is no LiveAvatar: what is assumed rather than known stands in `docs/simulator.md`.
"""

from .faults import Faults
from .ledger import CommandLine, Ledger, SessionLine, SilenceLine, SocketLine, UtteranceLine
from .media.avatar import RoomUnreachable
from .media.recording import Heard
from .service.http_server import PortInUse
from .service.refusals import Refusal
from .session import Session, SessionPhase
from .settings import (
    CATALOGUE,
    DEFAULT_API_KEY,
    AtLimit,
    Correlation,
    SimulatorSettings,
    SpeechSignals,
)
from .simulator import LiveAvatarSimulator

__all__ = [
    "CATALOGUE",
    "DEFAULT_API_KEY",
    "AtLimit",
    "CommandLine",
    "Correlation",
    "Faults",
    "Heard",
    "Ledger",
    "LiveAvatarSimulator",
    "PortInUse",
    "Refusal",
    "RoomUnreachable",
    "Session",
    "SessionLine",
    "SessionPhase",
    "SilenceLine",
    "SimulatorSettings",
    "SocketLine",
    "SpeechSignals",
    "UtteranceLine",
]
