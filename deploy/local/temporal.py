"""Starts a Temporal development server for the stack, or uses a server that runs already.

Where the program comes from is decided in `binaries.py`. The settings here are for development:
a production server is configured by its operator.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError

from avatar_sessions.contract.names import SEARCH_ATTRIBUTES
from deploy.local.binaries import (
    TEMPORAL,
    Binary,
    RunningServer,
    SdkDownload,
    TemporalSource,
    needed_go,
)
from deploy.local.errors import ServerUnavailable
from deploy.local.ports import LOOPBACK
from deploy.local.processes import Child, ChildSpec, Supervisor
from deploy.local.settings import LocalSettings
from workers.errors import SearchAttributesMissing
from workers.search_attributes import ensure_search_attributes

DYNAMIC_CONFIG: Final = {
    # The dev server has one history shard and polls it 20 times a second, which turns a 9 ms
    # command into 46 ms (measured, docs/internals/design.md).
    "history.transferProcessorMaxPollRPS": "2000",
    "history.transferProcessorMaxPollHostRPS": "2000",
    # Cancels are pushed to workers instead of waiting for the next heartbeat, where supported.
    "frontend.WorkerCommandsEnabled": "true",
    "system.enableCancelActivityWorkerCommand": "true",
}
READY_WITHIN_S: Final = 60.0
STOP_WITHIN_S: Final = 1.5
"""Temporal waits for long polls to end; its state is in memory and need not be saved."""
NAMESPACE_WITHIN_S: Final = 30.0
"""The server's caches learn of a new namespace within seconds."""


@dataclass(frozen=True, slots=True)
class TemporalServer:
    """A Temporal server that answers, with the search attributes registered."""

    address: str
    namespace: str
    ui_url: str
    started_here: bool = True
    """No TLS and no login; the user's `TEMPORAL_` variables for other servers do not apply."""
    login: Mapping[str, str] = field(default_factory=dict, repr=False)
    """For a server that was not started here: the user's `TEMPORAL_` variables."""

    async def client(self) -> Client:
        """A new client with the data converter that the contract's models need."""
        arguments: dict[str, Any] = {}
        if not self.started_here:
            arguments.update(ClientConfig.load_client_connect_config())
        arguments["target_host"] = self.address
        arguments["namespace"] = self.namespace
        return await Client.connect(**arguments, data_converter=pydantic_data_converter)

    @property
    def environment(self) -> dict[str, str]:
        """Temporal's standard variables, for a process that uses this server."""
        here = {"TEMPORAL_ADDRESS": self.address, "TEMPORAL_NAMESPACE": self.namespace}
        if self.started_here:
            return {**here, "TEMPORAL_CONFIG_FILE": os.devnull}
        return {**self.login, **here}

    async def new_namespace(self, prefix: str = "ns") -> Client:
        """Register a namespace with the search attributes; a client of it.

        Workers in one namespace see no session of another.

        Raises:
            TimeoutError: the server does not serve it within `NAMESPACE_WITHIN_S`.
        """
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        client = await self.client()
        await client.workflow_service.register_namespace(
            RegisterNamespaceRequest(
                namespace=name, workflow_execution_retention_period=Duration(seconds=86_400)
            )
        )
        there = await Client.connect(
            self.address, namespace=name, data_converter=pydantic_data_converter
        )
        give_up_at = time.monotonic() + NAMESPACE_WITHIN_S
        while True:
            try:
                await ensure_search_attributes(there)
                await there.count_workflows()
            except (RPCError, SearchAttributesMissing) as error:
                if time.monotonic() > give_up_at:
                    raise TimeoutError(f"namespace {name} is not served") from error
                await asyncio.sleep(0.2)
            else:
                return there


async def start_temporal(
    supervisor: Supervisor, source: TemporalSource, settings: LocalSettings
) -> TemporalServer:
    """Start a Temporal server on the settings' ports, or find the one that `source` names.

    Raises:
        ServerUnavailable: the running server does not answer, or Temporal cannot be downloaded.
        LocalError: the server did not start.
    """
    if isinstance(source, RunningServer):
        return await _running(source.address, settings)
    server = TemporalServer(
        address=f"{LOOPBACK}:{settings.temporal_port}",
        namespace=settings.temporal_namespace,
        ui_url=f"http://{LOOPBACK}:{settings.temporal_ui_port}",
    )
    if isinstance(source, SdkDownload):
        await _start_from_sdk(supervisor, server, settings)
    else:
        await start_temporal_binary(supervisor, source, settings)
    return server


async def start_temporal_binary(
    supervisor: Supervisor,
    binary: Binary,
    settings: LocalSettings,
    *,
    name: str = "Temporal",
    more_namespaces: Sequence[str] = (),
    database: Path | None = None,
    needed: bool = True,
) -> Child:
    """Start the program, and wait until it serves every namespace.

    Args:
        supervisor: ends the process.
        binary: the program.
        settings: ports and the first namespace.
        name: of the process and its log.
        more_namespaces: served besides `settings.temporal_namespace`.
        database: a file that keeps the server's state when it ends; None: memory.
        needed: whether the stack ends when this server does.

    Raises:
        LocalError: the server did not start.
    """
    namespaces = [settings.temporal_namespace, *more_namespaces]

    async def ready(_: Child) -> bool:
        return await _serves(settings.temporal_port, namespaces)

    argv = _argv(binary, settings, namespaces)
    if database is not None:
        argv += ["--db-filename", str(database)]
    return await supervisor.start(
        ChildSpec(
            name=name,
            argv=argv,
            ready=ready,
            ready_within_s=READY_WITHIN_S,
            stop_within_s=STOP_WITHIN_S,
            needed=needed,
        )
    )


def _argv(binary: Binary, settings: LocalSettings, namespaces: Sequence[str]) -> list[str]:
    argv = [
        str(binary.path),
        *("server", "start-dev", "--ip", LOOPBACK),
        *("--port", str(settings.temporal_port), "--ui-port", str(settings.temporal_ui_port)),
        *("--log-level", "warn"),
    ]
    for namespace in namespaces:
        argv += ["--namespace", namespace]
    # As flags they are there from the first request on; added later, they take seconds to appear.
    for name, kind in SEARCH_ATTRIBUTES.items():
        argv += ["--search-attribute", f"{name}={kind}"]
    return argv + _dynamic_config()


def _dynamic_config() -> list[str]:
    return [
        word
        for key, setting in DYNAMIC_CONFIG.items()
        for word in ("--dynamic-config-value", f"{key}={setting}")
    ]


async def _serves(port: int, namespaces: Sequence[str]) -> bool:
    try:
        for namespace in namespaces:
            server = TemporalServer(f"{LOOPBACK}:{port}", namespace, ui_url="")
            await (await server.client()).count_workflows()
    except (RPCError, RuntimeError):  # the SDK raises RuntimeError while no server listens
        return False
    return True


async def _start_from_sdk(
    supervisor: Supervisor, server: TemporalServer, settings: LocalSettings
) -> None:
    # Imported here: only this fallback needs Temporal's test support.
    from temporalio.testing import WorkflowEnvironment

    try:
        environment = await WorkflowEnvironment.start_local(
            ip=LOOPBACK,
            port=settings.temporal_port,
            namespace=server.namespace,
            ui=True,
            ui_port=settings.temporal_ui_port,
            dev_server_extra_args=_dynamic_config(),
        )
    except RuntimeError as error:
        raise ServerUnavailable(
            f"Temporal could not be downloaded ({str(error).splitlines()[0]}): install it "
            f"({TEMPORAL.install_hint}), or install Go {needed_go()} or newer "
            "(https://go.dev/doc/install) and it is built here."
        ) from error
    await supervisor.enter(environment)
    await ensure_search_attributes(await server.client())


async def _running(address: str, settings: LocalSettings) -> TemporalServer:
    host = urlsplit(f"//{address}").hostname
    server = TemporalServer(
        address=address,
        namespace=settings.temporal_namespace,
        ui_url=settings.temporal_ui_url or f"http://{host}:8233",
        started_here=False,
        login={name: text for name, text in os.environ.items() if name.startswith("TEMPORAL_")},
    )
    try:
        client = await server.client()
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=server.namespace)
        )
    except (RPCError, RuntimeError) as error:
        raise ServerUnavailable(
            f"no Temporal with namespace {server.namespace!r} answers at {address} "
            "(TEMPORAL_ADDRESS): start it, or unset the variable to have one started here."
        ) from error
    try:
        await ensure_search_attributes(client)
    except SearchAttributesMissing as error:
        raise ServerUnavailable(str(error)) from error
    return server
