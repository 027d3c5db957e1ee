"""Starts the LiveAvatar simulator as a process of the stack, and asks it for its ledger."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final

import httpx
from pydantic import SecretStr

from deploy.local.livekit import answers_http
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.processes import Child, ChildSpec, Supervisor
from deploy.local.settings import ROOT, ExplicitSettings, settings_environment
from liveavatar_simulator.settings import SimulatorSettings

READY_WITHIN_S: Final = 60.0
LEDGER_PATH: Final = "/simulator/ledger"


@dataclass(frozen=True, slots=True)
class LiveAvatarEndpoint:
    """Where LiveAvatar's API answers: the real service, or a simulator started here."""

    url: str
    api_key: SecretStr
    simulator: Child | None = None
    """The simulator's process; None: the real service."""

    @property
    def simulated(self) -> bool:
        """Whether a simulator answers."""
        return self.simulator is not None

    async def ledger(self) -> dict[str, Any]:
        """The simulator's ledger: `started`, `stopped`, `open`, `sessions`, ...

        Raises:
            httpx.HTTPError: it did not answer.
        """
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            reply = await client.get(f"{self.url}{LEDGER_PATH}")
            ledger: dict[str, Any] = reply.raise_for_status().json()
            return ledger


class _Explicit(ExplicitSettings, SimulatorSettings):
    """The settings from the given values only."""


def simulator_settings(**values: object) -> SimulatorSettings:
    """A simulator's settings by their field names, whatever this process's environment says.

    Without ports the simulator gets free ones.
    """
    ports = {} if "port" in values else {"port": free_port()}
    if "media_port" not in values:
        ports["media_port"] = free_port()
    return _Explicit.model_validate({**ports, **values})


async def start_simulator(
    supervisor: Supervisor,
    settings: SimulatorSettings,
    *,
    name: str = "Simulator",
    verbose: bool = False,
    needed: bool = True,
) -> LiveAvatarEndpoint:
    """Start a simulator, and wait until it answers.

    Args:
        supervisor: ends the process.
        settings: with ports; `simulator_settings` makes them.
        name: of the process and its log.
        verbose: log every session.
        needed: whether the stack ends when the simulator does.

    Raises:
        LocalError: the simulator did not start.
    """
    assert settings.port, "a client could not know the port that 0 takes"
    url = f"http://{LOOPBACK}:{settings.port}"

    async def ready(_: Child) -> bool:
        return await answers_http(f"{url}{LEDGER_PATH}")

    child = await supervisor.start(
        ChildSpec(
            name=name,
            argv=[
                *(sys.executable, "-m", "liveavatar_simulator"),
                *(["--verbose"] if verbose else []),
            ],
            env=settings_environment(settings),
            cwd=ROOT,
            ready=ready,
            ready_within_s=READY_WITHIN_S,
            needed=needed,
        )
    )
    return LiveAvatarEndpoint(url, settings.api_keys[0], child)
