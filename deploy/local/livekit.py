"""Starts a LiveKit server for the stack, or uses one that runs already.

Where the program comes from is decided in `binaries.py`.
"""

from __future__ import annotations

import json
import secrets
import socket
from dataclasses import dataclass, field
from typing import Final

import httpx

from deploy.local.binaries import LiveKitSource, RunningServer
from deploy.local.errors import ServerUnavailable
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.processes import Child, ChildSpec, Supervisor
from deploy.local.settings import LocalSettings

READY_WITHIN_S: Final = 30.0
STOP_WITHIN_S: Final = 1.5
"""LiveKit waits for participants to leave; its state is in memory and need not be saved."""


@dataclass(frozen=True, slots=True)
class LiveKitServer:
    """A LiveKit server that answers. `url` is the one clients use (ws:// or wss://)."""

    url: str
    api_key: str
    api_secret: str = field(repr=False)

    @property
    def http_url(self) -> str:
        """The same server for plain HTTP."""
        return f"http{self.url.removeprefix('ws')}"

    @property
    def environment(self) -> dict[str, str]:
        """LiveKit's standard variables, for a process that uses this server."""
        return {
            "LIVEKIT_URL": self.url,
            "LIVEKIT_API_KEY": self.api_key,
            "LIVEKIT_API_SECRET": self.api_secret,
        }


async def start_livekit(
    supervisor: Supervisor, source: LiveKitSource, settings: LocalSettings
) -> LiveKitServer:
    """Start a LiveKit server on the settings' port, or find the one that `source` names.

    A server started here gets an API key and secret of its own for each run, and listens on
    loopback only: signalling on the settings' port, media on one free UDP port. So several stacks
    can run side by side.

    Raises:
        ServerUnavailable: the running server does not answer, or its key is not set.
        LocalError: the server did not start.
    """
    if isinstance(source, RunningServer):
        return await _running(source.address, settings)
    server = LiveKitServer(
        url=f"ws://{LOOPBACK}:{settings.livekit_port}",
        api_key="local-key",
        api_secret=secrets.token_urlsafe(32),
    )

    async def ready(_: Child) -> bool:
        return await answers_http(server.http_url)

    await supervisor.start(
        ChildSpec(
            name="LiveKit",
            argv=[str(source.path), "--bind", LOOPBACK, "--node-ip", LOOPBACK],
            env={
                # In the environment, where other users of this machine cannot read it.
                "LIVEKIT_KEYS": f"{server.api_key}: {server.api_secret}",
                "LIVEKIT_CONFIG": _config(settings.livekit_port),
            },
            ready=ready,
            ready_within_s=READY_WITHIN_S,
            stop_within_s=STOP_WITHIN_S,
        )
    )
    return server


def _config(port: int) -> str:
    """LiveKit's configuration; JSON, which is YAML too."""
    return json.dumps(
        {
            "port": port,
            "rtc": {
                "udp_port": free_port(socket.SOCK_DGRAM),
                # Its TCP listener ignores --bind and would be open to the network.
                "tcp_port": 0,
                "use_external_ip": False,
                "enable_loopback_candidate": True,
                "ips": {"includes": [f"{LOOPBACK}/32"]},
            },
            "logging": {"level": "info"},
        }
    )


async def _running(url: str, settings: LocalSettings) -> LiveKitServer:
    if settings.livekit_api_key is None or settings.livekit_api_secret is None:
        raise ServerUnavailable(
            "LIVEKIT_URL is set, but LIVEKIT_API_KEY or LIVEKIT_API_SECRET is not: "
            "set both, or unset LIVEKIT_URL to have a LiveKit started here."
        )
    server = LiveKitServer(
        url, settings.livekit_api_key, settings.livekit_api_secret.get_secret_value()
    )
    if not await answers_http(server.http_url):
        raise ServerUnavailable(
            f"no LiveKit answers at {url} (LIVEKIT_URL): start it, or unset the variable "
            "to have one started here."
        )
    return server


async def answers_http(url: str) -> bool:
    """Whether a GET of this URL succeeds."""
    async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
        try:
            return (await client.get(url)).is_success
        except httpx.TransportError:
            return False
