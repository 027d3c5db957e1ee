"""The janitor's metrics reach a collector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest_asyncio
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from activities.janitor.metrics import JanitorMetrics
from tests.support.platforms.janitor import JanitorEnvironment
from workers.telemetry import metering


class Collector:
    """Takes OTLP over HTTP and remembers the last number of each name."""

    def __init__(self) -> None:
        self.url = ""
        self.numbers: dict[str, float] = {}

    async def take(self, request: web.Request) -> web.Response:
        exported = ExportMetricsServiceRequest.FromString(await request.read())
        for resource in exported.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = (metric.sum if metric.HasField("sum") else metric.gauge).data_points
                    for point in points:
                        self.numbers[metric.name] = point.as_double or point.as_int
        return web.Response()


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.add_routes([web.post("/v1/metrics", collector.take)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield collector
    await runner.cleanup()


async def test_rounds_are_counted_and_exported(
    collector: Collector, environment: JanitorEnvironment
) -> None:
    """A round that failed exports no count: zero would mean that it found nothing."""
    await environment.orphan()
    await environment.billed()
    began = datetime.now(UTC).timestamp()
    async with environment.janitor():
        good = await environment.round()
        environment.outage.list_fails = True
        blind = await environment.round()
    meters = metering(collector.url)
    metrics = JanitorMetrics(meters.__enter__())
    metrics.count(good)
    metrics.count(blind)
    # The flush posts synchronously to the collector, which runs on this loop.
    await asyncio.to_thread(meters.__exit__, None, None, None)
    success = collector.numbers.pop("avatar_janitor_last_success_timestamp_seconds")
    assert began < success < began + 60
    assert collector.numbers == {
        "avatar_janitor_rounds_total": 2,
        "avatar_janitor_sessions_stopped_total": 1,
        "avatar_janitor_rooms_deleted_total": 0,
        "avatar_janitor_failures_total": 1,
        "avatar_janitor_sessions_found": 2,
        "avatar_janitor_sessions_strangers": 1,
    }
