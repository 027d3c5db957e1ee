"""A namespace of its own on the real Temporal server, with workers for the client's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from avatar_sessions import AvatarSessions, Seal, SessionRequest
from avatar_sessions.contract import names
from deploy.local.stack import TemporalServer
from tests.client.owner import OWNER_QUEUE, Owner
from workflows.session import AvatarSession

WAYNE = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"


async def new_namespace(temporal: TemporalServer, prefix: str) -> Client:
    """A client of a fresh namespace: its task queues are nobody else's."""
    namespace = f"{prefix}-{uuid4().hex[:8]}"
    client = await temporal.client()
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace=namespace,
            workflow_execution_retention_period=Duration(seconds=24 * 3600),
        )
    )
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(
            namespace=namespace,
            search_attributes=dict.fromkeys(names.SEARCH_ATTRIBUTES, keyword),
        )
    )
    return await Client.connect(
        temporal.address, namespace=namespace, data_converter=pydantic_data_converter
    )


@pytest.fixture(scope="session")
def seal() -> Seal:
    """The key that workers and client share."""
    return Seal([Seal.new_key()])


@pytest_asyncio.fixture(scope="session")
async def client(temporal: TemporalServer) -> Client:
    """A Temporal client of this folder's namespace, with nobody else in it."""
    return await new_namespace(temporal, "client")


@pytest_asyncio.fixture(scope="session")
async def owner(client: Client, seal: Seal) -> AsyncIterator[Owner]:
    """Workers on all queues that a session needs: the real workflow, an owner without a socket."""
    owner = Owner(client, seal)
    provisioning: list[Callable[..., Any]] = [
        owner.create_room,
        owner.mint_token,
        owner.start_session,
        owner.grant_access,
        owner.stop_session,
        owner.clean_room,
    ]
    by_queue: dict[str, list[Callable[..., Any]]] = {
        names.SESSIONS_TASK_QUEUE: provisioning,
        names.STREAMS_TASK_QUEUE: [owner.stream_audio],
        OWNER_QUEUE: [owner.deliver_command, owner.speak],
    }
    async with AsyncExitStack() as workers:
        for queue, activities in by_queue.items():
            worker = Worker(
                client,
                task_queue=queue,
                workflows=[AvatarSession] if queue == names.SESSIONS_TASK_QUEUE else [],
                activities=activities,
                graceful_shutdown_timeout=timedelta(seconds=1),
            )
            await workers.enter_async_context(worker)
        yield owner


@pytest_asyncio.fixture
async def sessions(client: Client, seal: Seal, owner: Owner) -> AsyncIterator[AvatarSessions]:
    """A client with workers behind it; what it leaves running is ended after the test."""
    sessions = AvatarSessions(client, seal)
    yield sessions
    async for session in sessions.list():
        await session.end()


@pytest.fixture
def key() -> str:
    """A session key that nobody has used."""
    return f"k-{uuid4().hex[:12]}"


@pytest.fixture
def request_() -> SessionRequest:
    """What most tests start."""
    return SessionRequest.model_validate({"avatar_id": WAYNE, "sandbox": True})
