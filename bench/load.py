"""Many speaking sessions in one owner process: the servers, the sessions, and who speaks to them.

Real Temporal (tuned as in `deploy/local`), real worker processes, and the simulator without
media in a process of its own. The speakers live in this process, one connection a session.
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
"""Three seconds at once, as a TTS that is faster than speech brings them; then at its pace."""
API_KEY: Final = "obviously-fake-load-key"
STARTS_AT_ONCE: Final = 10


@dataclass
class OwnerProcess:
    """The process that is measured."""

    process: asyncio.subprocess.Process

    async def look(self, *, at_memory: bool = False) -> dict[str, Any]:
        """What it has seen since the last look."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"collect\n" if at_memory else b"look\n")
        await self.process.stdin.drain()
        return await self.read()

    async def read(self) -> dict[str, Any]:
        """Its next line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            line = await self.process.stdout.readline()
        told: dict[str, Any] = json.loads(line)
        return told


@dataclass
class LoadSpeaker:
    """One session and the connection that speaks in it."""

    session: Session
    connection: ClientConnection
    provider_session_id: str
    reading: asyncio.Task[None] | None = None
    interrupted: dict[str, asyncio.Future[None]] = field(default_factory=dict)

    async def read(self) -> None:
        """Take what comes; only the answers to interrupts matter here."""
        async for frame in self.connection:
            if isinstance(frame, str) and '"live.interrupted"' in frame:
                event_id = json.loads(frame)["event_id"]
                self.interrupted.pop(event_id).set_result(None)

    async def begin(self, utterance_id: str) -> None:
        """Open an utterance."""
        await self.connection.send(LiveBegin(utterance_id=utterance_id).model_dump_json())

    async def interrupt(self) -> str:
        """Interrupt, and wait until it is on the wire; its id."""
        event_id = str(uuid4())
        done = self.interrupted[event_id] = asyncio.get_running_loop().create_future()
        await self.connection.send(json.dumps({"type": "agent.interrupt", "event_id": event_id}))
        await done
        return event_id


class SpeakingLoad:
    """What runs for a load measurement."""

    def __init__(
        self, temporal: TemporalServer, simulator_url: str, variables: dict[str, str], seal: Seal
    ) -> None:
        self._temporal = temporal
        self._simulator_url = simulator_url
        self._variables = variables
        self._seal = seal

    @asynccontextmanager
    async def owner(self, role: str = "streams", **more: str) -> AsyncIterator[OwnerProcess]:
        """A fresh owner process, with more settings."""
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
        """So many sessions, ended at the end."""
        sessions = AvatarSessions(await self._temporal.client(), self._seal)
        gate = asyncio.Semaphore(STARTS_AT_ONCE)

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
        """So many live sessions, each with a speaker connected."""
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
        """When commands of a type reached LiveAvatar: event id to seconds of the wall clock."""
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
    """Let all of them speak: a head start each, then frames of 100 ms at the pace of speech."""
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
    """Temporal, the simulator without media, and a worker for workflows."""
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
        of_workers = worker_settings(
            liveavatar,
            None,
            seal_key,
            AVATAR_SESSIONS_MAX_SESSIONS=1000,
            AVATAR_SESSIONS_LOG_LEVEL="WARNING",
        )
        await start_worker(supervisor, Role.SESSIONS, of_workers, temporal)
        variables = {**settings_environment(of_workers), **temporal.environment}
        yield SpeakingLoad(temporal, liveavatar.url, variables, Seal([seal_key]))
