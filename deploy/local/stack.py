"""The local stack: Temporal, LiveKit, the simulator and a worker, each started and probed.

`local_stack` is all of it; the tests use the servers one by one. Processes are `processes.py`'s
business, where programs come from is `servers.py`'s, and what is done with the stack its user's.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError

from avatar_sessions.contract.names import SEARCH_ATTRIBUTES
from avatar_sessions.seal import Seal
from deploy.local.errors import ServerUnavailable
from deploy.local.ports import LOOPBACK, free_port, require_free
from deploy.local.processes import ChildSpec, Supervisor
from deploy.local.servers import (
    TEMPORAL,
    Binary,
    LiveKitSource,
    RunningServer,
    SdkDownload,
    TemporalSource,
)
from deploy.local.settings import ROOT, LocalSettings

DYNAMIC_CONFIG = {
    # The dev server has one history shard and polls it 20 times a second, which turns a 9 ms
    # command into 46 ms (measured, docs/design.md).
    "history.transferProcessorMaxPollRPS": "2000",
    "history.transferProcessorMaxPollHostRPS": "2000",
    # Cancels are pushed to workers instead of waiting for the next heartbeat, where supported.
    "frontend.WorkerCommandsEnabled": "true",
    "system.enableCancelActivityWorkerCommand": "true",
}

_INDEXED_TYPES = {
    "Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "KeywordList": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}

TEMPORAL_READY_WITHIN_S = 60.0
LIVEKIT_READY_WITHIN_S = 30.0
# Temporal waits for long polls and LiveKit for guests; their state is in memory and goes anyway.
SERVER_STOP_WITHIN_S = 1.5
SIMULATOR_READY_WITHIN_S = 30.0
WORKER_READY_WITHIN_S = 60.0
WORKER_READY = b"worker ready"
WORKER_STOP_WITHIN_S = 15.0  # it gives up its sessions first


@dataclass(frozen=True, slots=True)
class TemporalServer:
    """A Temporal server that answers, with the search attributes registered."""

    address: str
    namespace: str
    ui_url: str
    ours: bool = True
    """Started here: no TLS, no login, and the user's settings for other servers do not count."""

    async def client(self) -> Client:
        """A new client with the data converter that the contract's models need."""
        arguments: dict[str, Any] = {}
        if not self.ours:
            arguments.update(ClientConfig.load_client_connect_config())
        arguments["target_host"] = self.address
        arguments["namespace"] = self.namespace
        return await Client.connect(**arguments, data_converter=pydantic_data_converter)

    @property
    def environment(self) -> dict[str, str]:
        """What leads a process that reads Temporal's standard variables to this server."""
        where = {"TEMPORAL_ADDRESS": self.address, "TEMPORAL_NAMESPACE": self.namespace}
        return {**where, "TEMPORAL_CONFIG_FILE": os.devnull} if self.ours else where

    @property
    def not_environment(self) -> tuple[str, ...]:
        """Beginnings of variables that would lead it elsewhere, or make it try to log in."""
        return ("TEMPORAL_",) if self.ours else ()


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


@asynccontextmanager
async def temporal_server(
    supervisor: Supervisor, source: TemporalSource, settings: LocalSettings
) -> AsyncIterator[TemporalServer]:
    """A Temporal server from `source`, on the settings' ports if it is ours to start."""
    namespace = settings.temporal_namespace
    if isinstance(source, RunningServer):
        host = urlsplit(f"//{source.address}").hostname
        server = TemporalServer(
            address=source.address,
            namespace=namespace,
            ui_url=settings.temporal_ui_url or f"http://{host}:8233",
            ours=False,
        )
        if not await _namespace_answers(server):
            raise ServerUnavailable(
                f"no Temporal with namespace {namespace!r} answers at {source.address} "
                "(TEMPORAL_ADDRESS): start it, or unset the variable to have one started here."
            )
        await _register_search_attributes(server)
        yield server
        return
    server = TemporalServer(
        address=f"{LOOPBACK}:{settings.temporal_port}",
        namespace=namespace,
        ui_url=f"http://{LOOPBACK}:{settings.temporal_ui_port}",
    )
    if isinstance(source, SdkDownload):
        async with _temporal_from_sdk(server, settings):
            yield server
        return

    async def ready() -> bool:
        return await _namespace_answers(server)

    await supervisor.start(
        ChildSpec(
            name="Temporal",
            argv=temporal_argv(source, settings),
            ready=ready,
            ready_within_s=TEMPORAL_READY_WITHIN_S,
            stop_within_s=SERVER_STOP_WITHIN_S,
        )
    )
    yield server


def temporal_argv(source: Binary, settings: LocalSettings) -> list[str]:
    """How a development server on the settings' ports is started; it keeps all in memory."""
    argv = [
        str(source.path),
        *("server", "start-dev", "--ip", LOOPBACK),
        *("--port", str(settings.temporal_port), "--ui-port", str(settings.temporal_ui_port)),
        *("--namespace", settings.temporal_namespace, "--log-level", "warn"),
    ]
    for name, kind in SEARCH_ATTRIBUTES.items():
        argv += ["--search-attribute", f"{name}={kind}"]
    for key, setting in DYNAMIC_CONFIG.items():
        argv += ["--dynamic-config-value", f"{key}={setting}"]
    return argv


@asynccontextmanager
async def _temporal_from_sdk(
    server: TemporalServer, settings: LocalSettings
) -> AsyncIterator[None]:
    # Imported here: only this fallback needs Temporal's test support.
    from temporalio.testing import WorkflowEnvironment

    extra = [word for item in DYNAMIC_CONFIG.items() for word in _dynamic_config_words(*item)]
    try:
        environment = await WorkflowEnvironment.start_local(
            ip=LOOPBACK,
            port=settings.temporal_port,
            namespace=server.namespace,
            ui=True,
            ui_port=settings.temporal_ui_port,
            dev_server_extra_args=extra,
        )
    except RuntimeError as error:
        raise ServerUnavailable(
            f"Temporal could not be fetched ({str(error).splitlines()[0]}): install it "
            f"({TEMPORAL.install_hint}), or install Go {TEMPORAL.go_version} or newer "
            "(https://go.dev/doc/install) and it is built here."
        ) from error
    async with environment:
        await _register_search_attributes(server)
        yield


def _dynamic_config_words(key: str, setting: str) -> tuple[str, str]:
    return "--dynamic-config-value", f"{key}={setting}"


async def _namespace_answers(server: TemporalServer) -> bool:
    try:
        client = await server.client()
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=server.namespace)
        )
    except (RPCError, RuntimeError):  # the SDK raises RuntimeError while nobody listens
        return False
    return True


async def _register_search_attributes(server: TemporalServer) -> None:
    """Register those that are missing."""
    client = await server.client()
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=server.namespace)
    )
    missing = set(SEARCH_ATTRIBUTES) - set(known.custom_attributes)
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=server.namespace,
                search_attributes={
                    name: _INDEXED_TYPES[SEARCH_ATTRIBUTES[name]] for name in missing
                },
            )
        )


@asynccontextmanager
async def livekit_server(
    supervisor: Supervisor, source: LiveKitSource, settings: LocalSettings
) -> AsyncIterator[LiveKitServer]:
    """A LiveKit server from `source`, on the settings' port if it is ours to start.

    Ours gets a key and secret of its own for each run, and speaks on loopback only: signalling on
    the settings' port, media on one free UDP port. So two stacks can run side by side.
    """
    if isinstance(source, RunningServer):
        yield await _running_livekit(source.address, settings)
        return
    server = LiveKitServer(
        url=f"ws://{LOOPBACK}:{settings.livekit_port}",
        api_key="local-key",
        api_secret=secrets.token_urlsafe(32),
    )

    async def ready() -> bool:
        return await _livekit_answers(server)

    await supervisor.start(
        ChildSpec(
            name="LiveKit",
            argv=[str(source.path), "--bind", LOOPBACK, "--node-ip", LOOPBACK],
            env={
                # By the environment, where other users of this machine cannot read it.
                "LIVEKIT_KEYS": f"{server.api_key}: {server.api_secret}",
                "LIVEKIT_CONFIG": _livekit_config(settings.livekit_port),
            },
            ready=ready,
            ready_within_s=LIVEKIT_READY_WITHIN_S,
            stop_within_s=SERVER_STOP_WITHIN_S,
        )
    )
    yield server


def _livekit_config(port: int) -> str:
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


async def _running_livekit(url: str, settings: LocalSettings) -> LiveKitServer:
    if settings.livekit_api_key is None or settings.livekit_api_secret is None:
        raise ServerUnavailable(
            "LIVEKIT_URL is set, but LIVEKIT_API_KEY or LIVEKIT_API_SECRET is not: "
            "set both, or unset LIVEKIT_URL to have a LiveKit started here."
        )
    server = LiveKitServer(
        url, settings.livekit_api_key, settings.livekit_api_secret.get_secret_value()
    )
    if not await _livekit_answers(server):
        raise ServerUnavailable(
            f"no LiveKit answers at {url} (LIVEKIT_URL): start it, or unset the variable "
            "to have one started here."
        )
    return server


async def _livekit_answers(server: LiveKitServer) -> bool:
    return await answers_http(server.http_url)


async def answers_http(url: str) -> bool:
    """Probe: the URL answers with a success."""
    async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
        try:
            return (await client.get(url)).is_success
        except httpx.TransportError:
            return False


@dataclass(frozen=True, slots=True)
class ProviderProcess:
    """LiveAvatar, or the simulator in its place."""

    url: str
    api_key: SecretStr
    simulated: bool

    async def ledger(self) -> dict[str, Any]:
        """The simulator's own account of what it was asked: `started`, `stopped`, `open`, ...

        Raises:
            httpx.HTTPError: it did not answer.
        """
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            reply = await client.get(f"{self.url}/simulator/ledger")
            ledger: dict[str, Any] = reply.raise_for_status().json()
            return ledger


async def simulator(
    supervisor: Supervisor, livekit: LiveKitServer, settings: LocalSettings
) -> ProviderProcess:
    """Start the LiveAvatar simulator; its avatars join rooms on `livekit`."""
    provider = ProviderProcess(
        url=f"http://{LOOPBACK}:{settings.simulator_port}",
        api_key=SecretStr(f"simulator-{secrets.token_urlsafe(16)}"),
        simulated=True,
    )
    await supervisor.start(
        ChildSpec(
            name="Simulator",
            argv=[
                *(sys.executable, "-m", "liveavatar_simulator", "--host", LOOPBACK),
                *("--port", str(settings.simulator_port)),
                *("--media-port", str(settings.simulator_media_port)),
                *("--livekit-url", livekit.url),
            ],
            env={
                "LIVEKIT_API_KEY": livekit.api_key,
                "LIVEKIT_API_SECRET": livekit.api_secret,
                "SIMULATOR_API_KEYS": provider.api_key.get_secret_value(),
            },
            cwd=ROOT,
            ready=lambda: answers_http(f"{provider.url}/simulator/ledger"),
            ready_within_s=SIMULATOR_READY_WITHIN_S,
        )
    )
    return provider


@dataclass(frozen=True, slots=True)
class LocalStack:
    """Everything that runs, and how to reach it."""

    temporal: TemporalServer
    livekit: LiveKitServer
    provider: ProviderProcess
    seal_keys: SecretStr
    """Comma-separated: what AVATAR_SESSIONS_SEAL_KEYS is set to."""
    clip_folder: Path


async def worker(supervisor: Supervisor, stack: LocalStack) -> None:
    """Start one worker process with all roles, and wait until it says that it works."""
    environment = {
        **stack.temporal.environment,
        "LIVEAVATAR_API_URL": stack.provider.url,
        "LIVEAVATAR_API_KEY": stack.provider.api_key.get_secret_value(),
        "LIVEKIT_URL": stack.livekit.url,
        "LIVEKIT_API_KEY": stack.livekit.api_key,
        "LIVEKIT_API_SECRET": stack.livekit.api_secret,
        "AVATAR_SESSIONS_SEAL_KEYS": stack.seal_keys.get_secret_value(),
        "AVATAR_SESSIONS_CLIP_FOLDER": str(stack.clip_folder),
    }
    # Not by asking Temporal for pollers: it remembers those of the last five minutes.
    log = supervisor.log_of("Worker")

    async def ready() -> bool:
        return WORKER_READY in log.read_bytes()

    await supervisor.start(
        ChildSpec(
            name="Worker",
            argv=[sys.executable, "-m", "workers", "--role", "all"],
            env=environment,
            without=stack.temporal.not_environment,
            cwd=ROOT,
            ready=ready,
            ready_within_s=WORKER_READY_WITHIN_S,
            stop_within_s=WORKER_STOP_WITHIN_S,
        )
    )


Told = Callable[[str, str, float], None]
"""Called for each part that is up: its name, its address, the seconds it took."""


@asynccontextmanager
async def local_stack(
    supervisor: Supervisor,
    sources: tuple[TemporalSource, LiveKitSource],
    settings: LocalSettings,
    *,
    live: bool,
    clip_folder: Path,
    told: Told,
) -> AsyncIterator[LocalStack]:
    """Start everything, one after the other.

    Args:
        supervisor: what the processes belong to.
        sources: where Temporal and LiveKit come from.
        settings: ports, addresses, keys.
        live: use LiveAvatar itself; needs `settings.liveavatar_api_key`.
        clip_folder: the only folder that the worker reads clips from.
        told: called as each part is up.

    Raises:
        LocalError: one of them cannot be had, or did not come up.
    """
    _require_ports(sources, settings, live=live)
    started_at = time.monotonic()

    def up(name: str, address: str) -> None:
        nonlocal started_at
        now = time.monotonic()
        told(name, address, now - started_at)
        started_at = now

    async with (
        temporal_server(supervisor, sources[0], settings) as temporal,
        livekit_server(supervisor, sources[1], settings) as livekit,
    ):
        up("Temporal", temporal.ui_url)
        up("LiveKit", livekit.url)
        if live:
            provider = _liveavatar(settings)
            up("LiveAvatar", provider.url)
        else:
            provider = await simulator(supervisor, livekit, settings)
            up("Simulator", provider.url)
        stack = LocalStack(
            temporal=temporal,
            livekit=livekit,
            provider=provider,
            seal_keys=settings.avatar_sessions_seal_keys or Seal.new_key(),
            clip_folder=clip_folder,
        )
        await worker(supervisor, stack)
        up("Worker", "all roles in one process")
        yield stack


def _liveavatar(settings: LocalSettings) -> ProviderProcess:
    if settings.liveavatar_api_key is None:
        raise ServerUnavailable(
            "LIVEAVATAR_API_KEY is not set: export it, or leave out --live to use the simulator."
        )
    return ProviderProcess(
        settings.liveavatar_api_url, settings.liveavatar_api_key, simulated=False
    )


def _require_ports(
    sources: tuple[TemporalSource, LiveKitSource], settings: LocalSettings, *, live: bool
) -> None:
    """Look at every port before anything is started, so that a refusal costs nothing."""
    temporal, livekit = sources
    if not isinstance(temporal, RunningServer):
        require_free(settings.temporal_port, "Temporal", "TEMPORAL_PORT")
        require_free(settings.temporal_ui_port, "Temporal's Web UI", "TEMPORAL_UI_PORT")
    if not isinstance(livekit, RunningServer):
        require_free(settings.livekit_port, "LiveKit", "LIVEKIT_PORT")
    if not live:
        require_free(settings.simulator_port, "the simulator", "SIMULATOR_PORT")
        require_free(settings.simulator_media_port, "the simulator", "SIMULATOR_MEDIA_PORT")
    require_free(settings.viewer_port, "the viewer", "VIEWER_PORT")
