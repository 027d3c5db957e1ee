"""Temporal namespaces: one for each test that starts workers of its own."""

from __future__ import annotations

import asyncio
import time
import uuid

from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from deploy.local.stack import TemporalServer
from workers.process import CannotStart, ensure_search_attributes


async def new_namespace(temporal: TemporalServer, prefix: str = "ns") -> Client:
    """A client of a new namespace: no other test's workers poll its task queues."""
    client = await temporal.client()
    name = f"{prefix}-{uuid.uuid4().hex[:12]}"
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace=name, workflow_execution_retention_period=Duration(seconds=86_400)
        )
    )
    there = await Client.connect(
        temporal.address, namespace=name, data_converter=pydantic_data_converter
    )
    give_up = time.monotonic() + 30  # caches of the server learn of a namespace in seconds
    while True:
        try:
            await ensure_search_attributes(there)
            await there.count_workflows()
        except (RPCError, CannotStart):
            assert time.monotonic() < give_up, "the namespace does not appear"
            await asyncio.sleep(0.2)
        else:
            return there
