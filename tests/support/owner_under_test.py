"""Owned sessions on a simulated LiveAvatar without rooms, and speech for them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
from pydantic import SecretStr

from avatar_sessions.contract.activities import StreamResult
from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import Pose, UtteranceOutcome
from liveavatar_lite import SAMPLE_RATE_HZ, WAYNE_AVATAR_ID, LiveAvatar, TokenRequest
from liveavatar_simulator import LiveAvatarSimulator, SessionLine, SimulatorSettings
from owner.clip_queue import ClipJob, OpenClip
from owner.observer import ProviderEnd
from owner.session import OwnedSession, OwnerLimits
from owner.utterance_chunks import Utterance
from tests.support.waiting import until

API_KEY = "obviously-fake-liveavatar-key"


@dataclass
class RecordingSupervisor:
    """Keeps what an owned session reports; always lets it reconnect."""

    liveavatar: LiveAvatar
    provider_session_id: str
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    gaps_ms: list[int] = field(default_factory=list)
    reports: list[UtteranceReport] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)
    losses: int = 0

    def on_ready(self, gap_ms: int) -> None:
        self.gaps_ms.append(gap_ms)
        self.ready.set()

    def on_disconnected(self) -> None:
        self.losses += 1
        self.ready.clear()

    def on_report(self, report: UtteranceReport, *, may_continue: bool) -> None:
        self.reports.append(report)

    def on_pose_requested(self, pose: Pose) -> None:
        self.poses.append(pose)

    async def provider_end(self) -> ProviderEnd | None:
        entry = await self.liveavatar.get_session(self.provider_session_id)
        over = entry is None or entry.end_reason is not None
        return ProviderEnd(None) if over else None

    async def may_reconnect(self) -> bool:
        return True


@dataclass
class OwnerUnderTest:
    """An owned session that runs, and what it reported."""

    session: OwnedSession
    supervisor: RecordingSupervisor
    simulator: LiveAvatarSimulator
    running: asyncio.Task[StreamResult]

    async def speak(self, utterance_id: str, sequence: int, clip: OpenClip) -> UtteranceReport:
        """Play a clip; returns its report."""
        return (await self.session.speak(ClipJob(utterance_id, sequence, clip))).report

    async def outcomes(self, count: int) -> list[UtteranceOutcome]:
        """Wait for so many reports of live utterances; returns their outcomes."""
        await until(lambda: len(self.supervisor.reports) == count)
        return [report.outcome for report in self.supervisor.reports]

    async def reconnected(self) -> None:
        """Wait until the socket was lost once and is back."""
        await until(lambda: self.supervisor.losses == 1)
        await asyncio.wait_for(self.supervisor.ready.wait(), 20)

    def break_socket(self) -> None:
        """Break the session's socket on this side."""
        connection = self.session._connection
        assert connection is not None
        connection._socket.transport.abort()

    @property
    def provider_session_id(self) -> str:
        return self.supervisor.provider_session_id

    @property
    def ledger_line(self) -> SessionLine:
        """The simulator's account of the session."""
        ledger = self.simulator.ledger()
        return next(
            one for one in ledger.sessions if str(one.session_id) == self.provider_session_id
        )

    @property
    def commands(self) -> list[str]:
        """The types of the commands that the simulator received."""
        return [command.type for command in self.ledger_line.commands]

    @property
    def sent(self) -> list[tuple[str | None, float]]:
        """What LiveAvatar took for utterances, and how many milliseconds it received of each."""
        return [(one.event_id, one.sent_ms) for one in self.ledger_line.utterances]


def simulator_settings(**overrides: object) -> SimulatorSettings:
    """A LiveAvatar that joins no rooms and starts without delay."""
    return SimulatorSettings.model_validate(
        {
            "api_keys": [API_KEY],
            "port": 0,
            "media_port": 0,
            "join_rooms": False,
            "livekit_api_secret": "an-obviously-fake-livekit-secret-of-32-bytes",
            "start_delay_s": 0.0,
            "connect_delay_s": 0.0,
            **overrides,
        }
    )


@contextlib.asynccontextmanager
async def owner_of(simulator: LiveAvatarSimulator) -> AsyncIterator[OwnerUnderTest]:
    """A session started at that simulator, owned and connected."""
    async with LiveAvatar(SecretStr(API_KEY), base_url=simulator.url) as liveavatar:
        minted = await liveavatar.create_token(
            TokenRequest(avatar_id=str(UUID(WAYNE_AVATAR_ID)), is_sandbox=True)
        )
        started = await liveavatar.start_session(minted.session_token)
        assert started.ws_url is not None
        supervisor = RecordingSupervisor(liveavatar, minted.session_id)
        session = OwnedSession(
            key="test",
            epoch=(1, 1),
            ws_url=started.ws_url,
            limits=OwnerLimits(),
            supervisor=supervisor,
        )
        running = asyncio.create_task(session.run(), name="owned session")
        owner = OwnerUnderTest(session, supervisor, simulator, running)
        async with asyncio.timeout(20):
            await supervisor.ready.wait()
        yield owner
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await session.close()


def begin(owner: OwnerUnderTest, name: str, seconds: float = 0.0) -> Utterance:
    """Open a live utterance, and write so much speech to it."""
    utterance = owner.session.live.begin(LiveBegin(utterance_id=name))
    assert isinstance(utterance, Utterance)
    utterance.write(tone(seconds), time.monotonic())
    return utterance


def tone(seconds: float) -> bytes:
    """A sine as LITE's PCM."""
    t = np.arange(int(SAMPLE_RATE_HZ * seconds)) / SAMPLE_RATE_HZ
    return (0.3 * 32767 * np.sin(2 * np.pi * 220 * t)).astype("<i2").tobytes()


def clip(pcm: bytes) -> OpenClip:
    """A clip that is there already, read in pieces of a second."""

    class Read:
        duration_s = len(pcm) / 48_000

        def __init__(self) -> None:
            self.pieces = [pcm[at : at + 48_000] for at in range(0, len(pcm), 48_000)]

        async def read(self) -> bytes:
            return self.pieces.pop(0) if self.pieces else b""

    return lambda: contextlib.nullcontext(Read())


def clip_that_does_not_arrive(asked: asyncio.Event) -> OpenClip:
    """A clip whose server never sends it; the event is set when it is asked."""

    class Waiting:
        duration_s = None

        async def read(self) -> bytes:
            asked.set()
            await asyncio.Event().wait()
            return b""

    return lambda: contextlib.nullcontext(Waiting())
