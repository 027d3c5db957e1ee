"""The whole local stack: Temporal, LiveKit, the simulator and a worker, started one after another.

Each part has a module of its own; processes are watched by `processes.py`. What is done with the
stack is decided by the demo, the benchmarks and the tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from avatar_sessions.seal import Seal
from deploy.local.binaries import LiveKitSource, RunningServer, TemporalSource
from deploy.local.errors import ServerUnavailable
from deploy.local.livekit import LiveKitServer, start_livekit
from deploy.local.ports import require_free
from deploy.local.processes import Supervisor
from deploy.local.settings import LocalSettings, settings_environment
from deploy.local.simulator import LiveAvatarEndpoint, start_simulator
from deploy.local.temporal import TemporalServer, start_temporal
from deploy.local.worker import start_worker, worker_settings
from liveavatar_simulator.settings import SimulatorSettings
from workers.wiring import Role


@dataclass(frozen=True, slots=True)
class LocalStack:
    """The running parts, and how to reach them."""

    temporal: TemporalServer
    livekit: LiveKitServer
    liveavatar: LiveAvatarEndpoint
    seal_keys: SecretStr
    """Comma-separated: what AVATAR_SESSIONS_SEAL_KEYS is set to."""
    clip_folder: Path


OnStarted = Callable[[str, str, float], None]
"""Called for each part that has started: its name, its address, the seconds it took."""

SimulatorFor = Callable[[LiveKitServer], SimulatorSettings]
"""Makes the settings of a simulator whose avatars join rooms on this server."""


async def start_stack(
    supervisor: Supervisor,
    sources: tuple[TemporalSource, LiveKitSource],
    settings: LocalSettings,
    *,
    simulator: SimulatorFor | None,
    clip_folder: Path,
    on_started: OnStarted,
    worker_variables: Mapping[str, str] | None = None,
) -> LocalStack:
    """Start every part, one after the other; the supervisor ends them.

    Args:
        supervisor: ends the processes.
        sources: where Temporal and LiveKit come from.
        settings: ports, addresses, keys.
        simulator: the simulator's settings; None: use the real LiveAvatar, which needs
            `settings.liveavatar_api_key`.
        clip_folder: the only folder that the worker reads clips from.
        on_started: called as each part is ready.
        worker_variables: further environment variables of the worker, where the stack sets none.

    Raises:
        LocalError: a part cannot be had, or did not start.
    """
    _require_ports(sources, settings, real=simulator is None)
    started_at = time.monotonic()

    def started(name: str, address: str) -> None:
        nonlocal started_at
        now = time.monotonic()
        on_started(name, address, now - started_at)
        started_at = now

    temporal = await start_temporal(supervisor, sources[0], settings)
    started("Temporal", temporal.ui_url)
    livekit = await start_livekit(supervisor, sources[1], settings)
    started("LiveKit", livekit.url)
    if simulator is None:
        liveavatar = _real_service(settings)
        started("LiveAvatar", liveavatar.url)
    else:
        liveavatar = await start_simulator(supervisor, simulator(livekit))
        started("Simulator", liveavatar.url)
    seal_keys = settings.avatar_sessions_seal_keys or Seal.new_key()
    settings_of_worker = worker_settings(
        liveavatar, livekit, seal_keys, AVATAR_SESSIONS_CLIP_FOLDER=str(clip_folder)
    )
    own = settings_environment(settings_of_worker)
    more = {name: value for name, value in (worker_variables or {}).items() if name not in own}
    await start_worker(supervisor, Role.ALL, settings_of_worker, temporal, environment=more)
    started("Worker", "all roles in one process")
    return LocalStack(temporal, livekit, liveavatar, seal_keys, clip_folder)


def _real_service(settings: LocalSettings) -> LiveAvatarEndpoint:
    if settings.liveavatar_api_key is None:
        raise ServerUnavailable(
            "LIVEAVATAR_API_KEY is not set: export it, or leave out --real to use the simulator."
        )
    return LiveAvatarEndpoint(settings.liveavatar_api_url, settings.liveavatar_api_key)


def _require_ports(
    sources: tuple[TemporalSource, LiveKitSource], settings: LocalSettings, *, real: bool
) -> None:
    """Check every port before anything is started, so that a refusal costs no time."""
    temporal, livekit = sources
    if not isinstance(temporal, RunningServer):
        require_free(settings.temporal_port, "Temporal", "TEMPORAL_PORT")
        require_free(settings.temporal_ui_port, "Temporal's Web UI", "TEMPORAL_UI_PORT")
    if not isinstance(livekit, RunningServer):
        require_free(settings.livekit_port, "LiveKit", "LIVEKIT_PORT")
    if not real:
        require_free(settings.simulator_port, "the simulator", "SIMULATOR_PORT")
        require_free(settings.simulator_media_port, "the simulator", "SIMULATOR_MEDIA_PORT")
    require_free(settings.viewer_port, "the viewer", "VIEWER_PORT")
