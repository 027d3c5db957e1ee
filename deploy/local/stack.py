"""The servers of the local stack, each started, probed and described.

Says how each is started, not when: the demo and the tests decide that. Processes are
`processes.py`'s business, and where programs come from `servers.py`'s.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from deploy.local.errors import ServerUnavailable
from deploy.local.ports import LOOPBACK, free_port, require_free
from deploy.local.processes import ChildSpec, Supervisor
from deploy.local.servers import (
    TEMPORAL,
    Binary,
    LiveKitSource,
    Running,
    SdkDownload,
    TemporalSource,
)
from deploy.local.settings import LocalSettings

SEARCH_ATTRIBUTES = ("AvatarState", "AvatarProviderSessionId", "AvatarTenant")

DYNAMIC_CONFIG = {
    # The dev server has one history shard and polls it 20 times a second, which turns a 9 ms
    # command into 46 ms (measured, docs/design.md).
    "history.transferProcessorMaxPollRPS": "2000",
    "history.transferProcessorMaxPollHostRPS": "2000",
    # Cancels are pushed to workers instead of waiting for the next heartbeat, where supported.
    "frontend.WorkerCommandsEnabled": "true",
    "system.enableCancelActivityWorkerCommand": "true",
}

TEMPORAL_READY_WITHIN_S = 60.0
LIVEKIT_READY_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class TemporalServer:
    """A Temporal server that answers, with the search attributes registered."""

    address: str
    namespace: str
    ui_url: str

    async def client(self) -> Client:
        """A new client with the data converter that the contract's models need."""
        return await Client.connect(
            self.address, namespace=self.namespace, data_converter=pydantic_data_converter
        )


@dataclass(frozen=True, slots=True)
class LiveKitServer:
    """A LiveKit server that answers. `url` is the one clients use (ws:// or wss://)."""

    url: str
    api_key: str
    api_secret: str = ""

    def __repr__(self) -> str:
        return f"LiveKitServer(url={self.url!r}, api_key={self.api_key!r})"

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
    if isinstance(source, Running):
        host = urlsplit(f"//{source.address}").hostname
        server = TemporalServer(
            source.address, namespace, settings.temporal_ui_url or f"http://{host}:8233"
        )
        if not await _namespace_answers(server):
            raise ServerUnavailable(
                f"no Temporal with namespace {namespace!r} answers at {source.address} "
                "(TEMPORAL_ADDRESS): start it, or unset the variable to have one started here."
            )
        await _register_search_attributes(server)
        yield server
        return
    require_free(settings.temporal_port, "Temporal", "TEMPORAL_PORT")
    require_free(settings.temporal_ui_port, "Temporal's Web UI", "TEMPORAL_UI_PORT")
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
            argv=_temporal_argv(source, settings),
            ready=ready,
            ready_within_s=TEMPORAL_READY_WITHIN_S,
        )
    )
    yield server


def _temporal_argv(source: Binary, settings: LocalSettings) -> list[str]:
    argv = [
        str(source.path),
        *("server", "start-dev", "--ip", LOOPBACK),
        *("--port", str(settings.temporal_port), "--ui-port", str(settings.temporal_ui_port)),
        *("--namespace", settings.temporal_namespace, "--log-level", "warn"),
    ]
    for name in SEARCH_ATTRIBUTES:
        argv += ["--search-attribute", f"{name}=Keyword"]
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
        keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=server.namespace,
                search_attributes=dict.fromkeys(missing, keyword),
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
    if isinstance(source, Running):
        yield await _running_livekit(source.address, settings)
        return
    require_free(settings.livekit_port, "LiveKit", "LIVEKIT_PORT")
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
