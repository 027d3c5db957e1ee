"""One environment of a chaos run: a Temporal namespace, a simulator and real worker processes.

Environments share only this machine and, mostly, the Temporal server's process, so that several
faults can be injected at the same time. Injects no fault and checks no invariant.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from temporalio.client import Client

from avatar_sessions import AvatarSessions
from avatar_sessions.seal import Seal
from chaos.environment.clock import FakeClock, remove_shared_memory
from chaos.environment.processes import ResourceSnapshot, WorkerProcess, start_worker_process
from chaos.environment.simulator import SimulatorProcess, start_simulator_process
from chaos.environment.temporal import RestartableTemporal, via_port
from chaos.start_lock import StartLock
from deploy.local.binaries import Binary
from deploy.local.livekit import LiveKitServer
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.processes import Supervisor
from deploy.local.relay import RelayMode, TcpRelay
from deploy.local.simulator import LiveAvatarEndpoint
from deploy.local.temporal import TemporalServer
from deploy.local.worker import worker_settings
from workers.settings import WorkerSettings
from workers.wiring import Role

PROXY_HOST: Final = "127.0.0.2"
"""A second loopback address: the simulator's media port behind a proxy."""
API_KEY: Final = SecretStr("obviously-fake-chaos-api-key")
SHORT_LIMIT_S: Final = 20
EXIT_WITHIN_S: Final = 20.0


class Layout(StrEnum):
    """How the roles are spread over processes."""

    ALL = "all"
    """Each worker has every role."""
    SPLIT = "split"
    """Workflows run in one process, sessions in others."""


class EnvironmentKind(StrEnum):
    """What a fault needs from its environment."""

    SHARED = "shared"
    """A namespace of the shared Temporal server."""
    OWN_TEMPORAL = "own-temporal"
    """A separate Temporal server, which may be killed."""
    PROXIED = "proxied"
    """Workers reach Temporal and the simulator's sockets through proxies."""
    ONE_SESSION = "one-session"
    """LiveAvatar's concurrency limit is one session."""
    SHORT_LIMIT = "short-limit"
    """LiveAvatar's sessions freeze after `SHORT_LIMIT_S`."""
    ROOMS = "rooms"
    """Avatars join rooms on a real LiveKit, with small pictures at five frames a second."""
    FAKE_CLOCK = "fake-clock"
    """Owners have a wall clock that can jump."""


_PLAN: Final = {
    EnvironmentKind.ONE_SESSION: {"concurrency_limit": 1},
    EnvironmentKind.SHORT_LIMIT: {"plan_max_duration_s": SHORT_LIMIT_S},
    EnvironmentKind.ROOMS: {"fps": 5, "max_video_height": 90},
}
"""The simulator's settings by kind of environment."""


@dataclass(frozen=True, slots=True)
class SharedServers:
    """What all environments share: servers, keys, folders and the start lock."""

    supervisor: Supervisor
    source: Binary
    folder: Path
    seal_key: SecretStr
    clip_folder: Path
    livekit: LiveKitServer | None
    """None: no fault asks for rooms."""
    start_lock: StartLock = field(default_factory=StartLock)


class Environment:
    """One environment. `open` it before use; the shared supervisor owns its processes."""

    def __init__(
        self, shared_servers: SharedServers, name: str, layout: Layout, kind: EnvironmentKind
    ) -> None:
        self.shared_servers = shared_servers
        self.name = name
        self.layout = layout
        self.kind = kind
        self.workers: list[WorkerProcess] = []
        """Workers that were started and may still run."""
        self.baseline: dict[WorkerProcess, ResourceSnapshot] = {}
        """Each worker's resources after its first run."""
        self.to_temporal = TcpRelay(LOOPBACK, 0)
        self.to_provider = TcpRelay(LOOPBACK, 0)
        self._numbers = itertools.count(1)
        self._exits = AsyncExitStack()
        self._temporal: RestartableTemporal | None = None
        self._client: Client | None = None
        self._simulator: SimulatorProcess | None = None
        self._sessions: AvatarSessions | None = None
        self._settings: WorkerSettings | None = None
        self._workers_temporal: TemporalServer | None = None
        self._clock: FakeClock | None = None

    async def open(self, shared_temporal: RestartableTemporal | None) -> None:
        """Start its servers, but no workers.

        Args:
            shared_temporal: a server with a namespace of this name; None: start one.

        Raises:
            LocalError: a server did not come up.
        """
        servers = self.shared_servers
        if shared_temporal is None:
            folder = servers.folder / self.name
            folder.mkdir()
            shared_temporal = RestartableTemporal(
                servers.supervisor, servers.source, folder, [self.name]
            )
            self._exits.push_async_callback(shared_temporal.end)
            await shared_temporal.start()
        self._temporal = shared_temporal
        proxied = self.kind is EnvironmentKind.PROXIED
        ports = (free_port(), free_port())
        self._simulator = await start_simulator_process(
            servers.supervisor,
            servers.start_lock,
            f"{self.name} simulator",
            API_KEY,
            ports,
            public_host=PROXY_HOST if proxied else LOOPBACK,
            settings={
                **self._rooms,
                **_PLAN.get(self.kind, {}),
            },
        )
        self._exits.push_async_callback(self._simulator.close)
        direct = shared_temporal.server(self.name)
        server = direct
        if proxied:
            self.to_temporal = TcpRelay(LOOPBACK, shared_temporal.port)
            self.to_provider = TcpRelay(LOOPBACK, ports[1])
            await self._exits.enter_async_context(self.to_temporal.listening(LOOPBACK))
            await self._exits.enter_async_context(self.to_provider.listening(PROXY_HOST, ports[1]))
            server = via_port(direct, self.to_temporal.port)
        self._client = await direct.client()
        self._sessions = AvatarSessions(self._client, Seal([servers.seal_key]))
        self._workers_temporal = server
        self._settings = worker_settings(
            LiveAvatarEndpoint(self._simulator.url, API_KEY),
            self.livekit if self.kind is EnvironmentKind.ROOMS else None,
            servers.seal_key,
            AVATAR_SESSIONS_CLIP_FOLDER=str(servers.clip_folder),
        )
        if self.kind is EnvironmentKind.FAKE_CLOCK:
            self._clock = FakeClock(servers.folder / f"{self.name}.clock")

    @property
    def _rooms(self) -> dict[str, object]:
        """The simulator's settings for rooms; empty if the environment has none."""
        if self.kind is not EnvironmentKind.ROOMS:
            return {}
        livekit = self.livekit
        return {
            "join_rooms": True,
            "livekit_url": livekit.url,
            "livekit_api_key": livekit.api_key,
            "livekit_api_secret": livekit.api_secret,
        }

    async def close(self) -> None:
        """End all of its processes, newest first. It cannot be opened again."""
        for worker in self.workers:
            if worker.is_alive:
                await self.kill(worker)
        await self._exits.aclose()
        self._sessions = None

    # ------------------------------------------------------------- its parts

    @property
    def is_open(self) -> bool:
        """Whether all of its servers came up."""
        return self._sessions is not None

    @property
    def simulator(self) -> SimulatorProcess:
        """The simulator, in LiveAvatar's place."""
        assert self._simulator is not None, "the environment is not open"
        return self._simulator

    @property
    def sessions(self) -> AvatarSessions:
        """The client that a backend would use."""
        assert self._sessions is not None, "the environment is not open"
        return self._sessions

    @property
    def client(self) -> Client:
        """A Temporal client, as an operator would use it."""
        assert self._client is not None, "the environment is not open"
        return self._client

    @property
    def temporal(self) -> RestartableTemporal:
        """Its Temporal server."""
        assert self._temporal is not None, "the environment is not open"
        return self._temporal

    @property
    def livekit(self) -> LiveKitServer:
        """The LiveKit server of its rooms."""
        assert self.shared_servers.livekit is not None, "no LiveKit was started"
        return self.shared_servers.livekit

    @property
    def clock(self) -> FakeClock:
        """The wall clock of its owners; only in a `FAKE_CLOCK` environment."""
        assert self._clock is not None, "its owners have the kernel's clock"
        return self._clock

    # --------------------------------------------------------------- workers

    async def start_worker(self, role: Role, *, urgent: bool = False) -> WorkerProcess:
        """Start one more worker; an urgent one goes before those of other environments."""
        name = f"{self.name} {role.value} {next(self._numbers)}"
        servers, variables = self.shared_servers, {}
        if self._clock is not None and role is self.owner_role:
            variables = self._clock.variables
        assert self._settings is not None, "the environment is not open"
        assert self._workers_temporal is not None, "the environment is not open"
        worker = await start_worker_process(
            servers.supervisor,
            servers.start_lock,
            name,
            role,
            self._settings,
            self._workers_temporal,
            variables,
            urgent=urgent,
        )
        self.workers.append(worker)
        return worker

    async def kill(self, worker: WorkerProcess) -> float:
        """Send SIGKILL and wait for the exit; returns the wall-clock time of the signal."""
        at_s = worker.send(signal.SIGKILL)
        await worker.wait_for_exit(EXIT_WITHIN_S)
        if self._clock is not None:
            remove_shared_memory(worker.child.pid)
        return at_s

    @property
    def workflow_worker(self) -> WorkerProcess:
        """The process that runs workflows and short activities."""
        if self.layout is Layout.ALL:
            return self.owner
        (worker,) = self.alive(Role.SESSIONS)
        return worker

    @property
    def owner_role(self) -> Role:
        """The role of a process that owns sessions, in this layout."""
        return Role.ALL if self.layout is Layout.ALL else Role.STREAMS

    async def start_owner(self) -> WorkerProcess:
        """Start one more process that can own sessions."""
        return await self.start_worker(self.owner_role)

    def alive(self, role: Role) -> list[WorkerProcess]:
        """The running workers of a role."""
        return [one for one in self.workers if one.is_alive and one.role is role]

    @property
    def owner(self) -> WorkerProcess:
        """The one process that owns all sessions; exactly one runs right after `prepare`."""
        owners = self.alive(self.owner_role)
        assert len(owners) == 1, f"{len(owners)} owners run, not one"
        return owners[0]

    async def prepare(self) -> None:
        """Reset to the minimum: one owner and, in split layout, one worker for workflows.

        Clears all faults. The newest workers stay, so that workers started for one fault serve
        the next.
        """
        await self.simulator.set_faults()
        self.to_temporal.set_mode(RelayMode.PASS)
        self.to_provider.set_mode(RelayMode.PASS)
        if self._clock is not None:
            await self._clock.reset()
        wanted = (
            {self.owner_role} if self.layout is Layout.ALL else {self.owner_role, Role.SESSIONS}
        )
        for worker in list(self.workers):
            newest = self.alive(worker.role)[-1:] if worker.role in wanted else []
            if worker.is_alive and worker not in newest:
                await self.kill(worker)
        self.workers = [one for one in self.workers if one.is_alive]
        missing = [role for role in sorted(wanted) if not self.alive(role)]
        await asyncio.gather(*(self.start_worker(role) for role in missing))

    async def resources(self) -> dict[WorkerProcess, ResourceSnapshot]:
        """The resources of each running worker."""
        running = [one for one in self.workers if one.is_alive]
        snapshots = await asyncio.gather(*(one.resources() for one in running))
        return dict(zip(running, snapshots, strict=True))
