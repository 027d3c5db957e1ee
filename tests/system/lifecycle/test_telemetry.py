"""A session's trace reaches a collector, and holds no secret."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from avatar_sessions import AvatarSessions, Clip
from avatar_sessions.seal import Seal
from deploy.local.temporal import TemporalServer
from tests.support.platforms.in_process import new_key, running_workers, wayne
from tests.support.secret_scan import kinds_in
from workers.settings import WorkerSettings
from workers.telemetry import tracing


class Collector:
    """Receives OTLP over HTTP."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[bytes] = []

    async def take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        return web.Response()

    def span_names(self) -> set[str]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return {
            span.name
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.add_routes([web.post("/v1/traces", collector.take)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield collector
    await runner.cleanup()


async def test_a_session_is_traced_down_to_its_utterances(
    collector: Collector, temporal: TemporalServer, worker_settings: WorkerSettings
) -> None:
    namespace = (await temporal.new_namespace()).namespace
    traces = tracing(collector.url)
    interceptors = traces.__enter__()
    try:
        client = await Client.connect(
            temporal.address,
            namespace=namespace,
            data_converter=pydantic_data_converter,
            interceptors=interceptors,
        )
        sessions = AvatarSessions(client, Seal(worker_settings.seal_keys))
        async with running_workers(client, worker_settings):
            session = await sessions.start(new_key(), wayne())
            await session.attach()
            await session.speak(Clip(file="short.wav"))
            await session.end()
    finally:
        # The flush posts synchronously to the collector, which runs on this loop.
        await asyncio.to_thread(traces.__exit__, None, None, None)
    assert {"RunWorkflow:AvatarSession", "RunActivity:start_session", "RunActivity:speak"} <= (
        collector.span_names()
    )
    assert not [kind for body in collector.bodies for kind in kinds_in(body)]
