"""A true-to-life LiveAvatar (LITE mode), for development without an API key, and for tests.

REST, media WebSocket, an avatar in a real LiveKit room, a billing ledger, injected faults. What is
assumed about LiveAvatar rather than known is marked in the simulator's documentation.
"""

from .faults import Faults
from .ledger import BillingLedger, CommandLine, SessionLine, SilenceLine, SocketLine, UtteranceLine
from .media.avatar import RoomUnreachable
from .media.recording import AudioRecording
from .service.http_server import AddressInUse
from .service.refusals import Refusal
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
