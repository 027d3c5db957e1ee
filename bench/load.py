"""Many speaking sessions in one owner process: servers, sessions and speakers.

Real Temporal (tuned as in `deploy/local`), real worker processes, and the simulator without media
in a process of its own. The speakers run in this process, with one connection a session.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from avatar_sessions import AvatarSessions, Session, SessionRequest
from avatar_sessions.contract.live_dialect import SUBPROTOCOL, LiveBegin
from avatar_sessions.seal import Seal
from deploy.local.binaries import find_temporal
from deploy.local.ports import free_port
from deploy.local.processes import Supervisor, clean_environment
from deploy.local.settings import ROOT, LocalSettings, settings_environment
from deploy.local.simulator import simulator_settings, start_simulator
from deploy.local.temporal import TemporalServer, start_temporal
from deploy.local.worker import start_worker, worker_settings
from liveavatar_lite import WAYNE_AVATAR_ID
from workers.wiring import Role

FRAME: Final = bytes(4_800)
FRAME_S: Final = 0.1
HEAD_START_FRAMES: Final = 30
"""Three seconds of speech immediately, as from a fast TTS; then at the pace of speech."""
API_KEY: Final = "obviously-fake-load-key"
MAX_CONCURRENT: Final = 10
READ_TIMEOUT_S: Final = 60.0


class MeasurementFailed(Exception):
    """A measurement cannot go on, such as on an overloaded machine."""


@dataclass
class OwnerProcess:
    """The owner process under measurement."""

    process: asyncio.subprocess.Process

    async def stats(self, *, memory: bool = False) -> dict[str, Any]:
        """Its measurements since the last call; with `memory`, after a garbage collection."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"collect\n" if memory else b"stats\n")
        await self.process.stdin.drain()
        return await self.read()

    async def read(self) -> dict[str, Any]:
        """Read its next JSON object; other lines, such as a library's log, are passed on.

        Raises:
            MeasurementFailed: the process ended.
        """
        assert self.process.stdout is not None
        async with asyncio.timeout(READ_TIMEOUT_S):
            while not (line := await self.process.stdout.readline()).startswith(b"{"):
                if not line:
                    raise MeasurementFailed("the owner process ended during the measurement")
                sys.stderr.write(line.decode(errors="replace"))
        message: dict[str, Any] = json.loads(line)
        return message


@dataclass
class LoadSpeaker:
    """One session and the speaker's connection to it."""

    session: Session
    connection: ClientConnection
    provider_session_id: str
    reading: asyncio.Task[None] | None = None
    interrupted: dict[str, asyncio.Future[None]] = field(default_factory=dict)

    async def read(self) -> None:
        """Read all messages; only replies to interrupts are used."""
        async for frame in self.connection:
            if isinstance(frame, str) and '"live.interrupted"' in frame:
                event_id = json.loads(frame)["event_id"]
                self.interrupted.pop(event_id).set_result(None)

    async def begin(self, utterance_id: str) -> None:
        """Open an utterance."""
        await self.connection.send(LiveBegin(utterance_id=utterance_id).model_dump_json())

    async def interrupt(self) -> str:
        """Interrupt and wait until it is on the wire; returns its event id."""
        event_id = str(uuid4())
        done = self.interrupted[event_id] = asyncio.get_running_loop().create_future()
        await self.connection.send(json.dumps({"type": "agent.interrupt", "event_id": event_id}))
        await done
        return event_id


class SpeakingLoad:
    """Owner processes, sessions and speakers for load measurements."""

    def __init__(
        self, temporal: TemporalServer, simulator_url: str, variables: dict[str, str], seal: Seal
    ) -> None:
        self._temporal = temporal
        self._simulator_url = simulator_url
        self._variables = variables
        self._seal = seal

    @asynccontextmanager
    async def owner(self, role: str = "streams", **more: str) -> AsyncIterator[OwnerProcess]:
        """Run a new owner process, with additional environment variables."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.owner_process", role),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**clean_environment(), **self._variables, **more},
            limit=1 << 24,
        )
        owner = OwnerProcess(process)
        try:
            assert "ready" in await owner.read()
            yield owner
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 30)
            except TimeoutError:
                process.kill()
                await process.wait()

    @asynccontextmanager
    async def sessions(self, count: int) -> AsyncIterator[list[Session]]:
        """Start `count` live sessions; ends them afterwards."""
        sessions = AvatarSessions(await self._temporal.client(), self._seal)
        gate = asyncio.Semaphore(MAX_CONCURRENT)

        async def start() -> Session:
            async with gate:
                session = await sessions.start(f"load-{uuid4().hex[:10]}", _request())
                await session.attach()
                return session

        async def end(session: Session) -> None:
            async with gate:
                await session.end()

        started = await asyncio.gather(*(start() for _ in range(count)))
        try:
            yield started
        finally:
            await asyncio.gather(*(end(session) for session in started))

    @asynccontextmanager
    async def speakers(self, count: int) -> AsyncIterator[list[LoadSpeaker]]:
        """Start `count` live sessions, each with a connected speaker."""
        async with self.sessions(count) as sessions:
            speakers = [await self._connected(session) for session in sessions]
            try:
                yield speakers
            finally:
                await asyncio.gather(*(one.connection.close() for one in speakers))

    async def _connected(self, session: Session) -> LoadSpeaker:
        access = await session.attach(speaker=True)
        provider_id = (await session.status()).provider_session_id
        assert access.speaker is not None
        assert provider_id is not None
        connection = await connect(
            access.speaker.ingress_url,
            additional_headers={"Authorization": f"Bearer {access.speaker.ticket}"},
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            ping_interval=None,
        )
        speaker = LoadSpeaker(session, connection, provider_id)
        speaker.reading = asyncio.create_task(speaker.read(), name="load speaker")
        return speaker

    async def arrivals(self, speaker: LoadSpeaker, kind: str) -> dict[str, float]:
        """When commands of a type reached the simulator: wall-clock seconds by event id."""
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
            ledger = (await client.get(f"{self._simulator_url}/simulator/ledger")).json()
        line = next(
            one for one in ledger["sessions"] if one["session_id"] == speaker.provider_session_id
        )
        began_s = _wall_s(line["started_at"])
        return {
            str(one["event_id"]): began_s + one["at_ms"] / 1000
            for one in reversed(line["commands"])
            if one["type"] == kind
        }


async def talk(speakers: list[LoadSpeaker], seconds: float) -> None:
    """Speak in all sessions: a head start each, then frames of 100 ms at the pace of speech."""
    for number, speaker in enumerate(speakers):
        await speaker.begin(f"long-{uuid4().hex[:8]}-{number}")
        for _ in range(HEAD_START_FRAMES):
            await speaker.connection.send(FRAME)
        await asyncio.sleep(FRAME_S / len(speakers))
    began_s = time.perf_counter()
    count = len(speakers)
    for tick in range(round(seconds / FRAME_S) * count):
        await speakers[tick % count].connection.send(FRAME)
        if tick % 8 == 7:  # spread over each 100 ms
            late_s = time.perf_counter() - began_s - tick * FRAME_S / count
            await asyncio.sleep(max(0.0, -late_s))


def _request() -> SessionRequest:
    return SessionRequest(avatar_id=WAYNE_AVATAR_ID, max_duration_s=1200, idle_timeout_s=1200)


def _wall_s(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


@asynccontextmanager
async def load_lab(logs: Path) -> AsyncIterator[SpeakingLoad]:
    """Run Temporal, the simulator without media, and a worker for workflows."""
    settings = LocalSettings(temporal_port=free_port(), temporal_ui_port=free_port())
    source = find_temporal(settings, sys.stderr)
    seal_key = Seal.new_key()
    async with Supervisor(logs) as supervisor:
        temporal = await start_temporal(supervisor, source, settings)
        liveavatar = await start_simulator(
            supervisor,
            simulator_settings(
                api_keys=[API_KEY],
                join_rooms=False,
                start_delay_s=0,
                connect_delay_s=0,
                concurrency_limit=5000,
                calls_per_s=0,
                credits=1_000_000,
                livekit_api_secret="an-obviously-fake-livekit-secret-of-32-bytes",  # noqa: S106
            ),
        )
        worker_config = worker_settings(
            liveavatar,
            None,
            seal_key,
            AVATAR_SESSIONS_MAX_SESSIONS=1000,
            AVATAR_SESSIONS_LOG_LEVEL="WARNING",
        )
        await start_worker(supervisor, Role.SESSIONS, worker_config, temporal)
        variables = {**settings_environment(worker_config), **temporal.environment}
        yield SpeakingLoad(temporal, liveavatar.url, variables, Seal([seal_key]))
