"""Starts worker processes of the stack: `python -m workers` in any role."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from typing import Final

from pydantic import SecretStr
from temporalio.api.enums.v1 import DescribeTaskQueueMode, TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from avatar_sessions.contract import names
from deploy.local.livekit import LiveKitServer
from deploy.local.processes import Child, ChildSpec, Supervisor
from deploy.local.settings import ROOT, ExplicitSettings, settings_environment
from deploy.local.simulator import LiveAvatarEndpoint
from deploy.local.temporal import TemporalServer
from workers.settings import WorkerSettings
from workers.wiring import Role

READY_WITHIN_S: Final = 60.0
STOP_WITHIN_S: Final = 15.0
"""A worker hands its sessions over first."""

_WORKFLOW: Final = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
_ACTIVITY: Final = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
PolledQueue = tuple[str, TaskQueueType.ValueType]
"""A task queue's name, and the kind of tasks that are polled."""


class _Explicit(ExplicitSettings, WorkerSettings):
    """The settings from the given values only."""


def worker_settings(
    liveavatar: LiveAvatarEndpoint,
    livekit: LiveKitServer | None,
    seal_keys: SecretStr,
    **variables: object,
) -> WorkerSettings:
    """A worker's settings, whatever this process's environment says.

    Args:
        liveavatar: the service that the worker calls.
        livekit: the server of the sessions' own rooms; None: no own rooms.
        seal_keys: comma-separated.
        variables: further settings by their environment variables' names.
    """
    return _Explicit.model_validate(
        {
            "LIVEAVATAR_API_URL": liveavatar.url,
            "LIVEAVATAR_API_KEY": liveavatar.api_key,
            "AVATAR_SESSIONS_SEAL_KEYS": seal_keys.get_secret_value(),
            **({} if livekit is None else livekit.environment),
            **variables,
        }
    )


async def start_worker(
    supervisor: Supervisor,
    role: Role,
    settings: WorkerSettings,
    temporal: TemporalServer,
    *,
    name: str = "Worker",
    environment: Mapping[str, str] | None = None,
    needed: bool = True,
) -> Child:
    """Start a worker process, and wait until it polls every task queue of its role.

    Args:
        supervisor: ends the process.
        role: what the worker does.
        settings: `worker_settings` makes them.
        temporal: the server and namespace that it works for.
        name: of the process and its log.
        environment: further variables, for libraries of the process.
        needed: whether the stack ends when the worker does.

    Raises:
        LocalError: the worker did not start.
    """
    return await supervisor.start(
        ChildSpec(
            name=name,
            argv=[sys.executable, "-m", "workers", "--role", role.value],
            env={
                **settings_environment(settings),
                **temporal.environment,
                **(environment or {}),
            },
            cwd=ROOT,
            ready=_PollsItsQueues(_queues(role, settings), temporal),
            ready_within_s=READY_WITHIN_S,
            stop_within_s=STOP_WITHIN_S,
            needed=needed,
        )
    )


def _queues(role: Role, settings: WorkerSettings) -> list[PolledQueue]:
    queues: list[PolledQueue] = []
    if role in (Role.ALL, Role.SESSIONS):
        queues += [(settings.task_queue, _WORKFLOW), (settings.task_queue, _ACTIVITY)]
    if role in (Role.ALL, Role.STREAMS):
        queues.append((names.STREAMS_TASK_QUEUE, _ACTIVITY))
    if role in (Role.ALL, Role.JANITOR):
        queues += [(names.JANITOR_TASK_QUEUE, _WORKFLOW), (names.JANITOR_TASK_QUEUE, _ACTIVITY)]
    return queues


class _PollsItsQueues:
    """Probe: the server has seen this very process poll each task queue of its role.

    The server lists pollers of the last five minutes by their identity, which holds the process id;
    so a worker that has just been killed is not taken for its successor.
    """

    def __init__(self, queues: list[PolledQueue], temporal: TemporalServer) -> None:
        self._missing = queues
        self._temporal = temporal
        self._client: Client | None = None

    async def __call__(self, child: Child) -> bool:
        identity = f"{child.pid}@{socket.gethostname()}"
        try:
            self._client = self._client or await self._temporal.client()
            while self._missing:
                queue, kind = self._missing[0]
                if identity not in await self._pollers(self._client, queue, kind):
                    return False
                self._missing.pop(0)
        except (RPCError, RuntimeError):  # the server does not answer, or not yet
            return False
        return True

    async def _pollers(self, client: Client, queue: str, kind: TaskQueueType.ValueType) -> set[str]:
        """Pollers of all partitions: by default the server lists those of the root alone, where a
        process that polls rarely may appear only with its next poll, a minute later."""
        reply = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace,
                task_queue=TaskQueue(name=queue),
                api_mode=DescribeTaskQueueMode.DESCRIBE_TASK_QUEUE_MODE_ENHANCED,
                task_queue_types=[kind],
                report_pollers=True,
            )
        )
        return {
            poller.identity
            for version in reply.versions_info.values()
            for by_type in version.types_info.values()
            for poller in by_type.pollers
        }
