"""Traces of sessions, and what the janitor counts, by OpenTelemetry.

A trace leads from the call that starts a session down to each utterance. All of it is off unless
a collector's address is set. The SDK reads ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from temporalio.client import Interceptor
from temporalio.contrib.opentelemetry import TracingInterceptor

SERVICE: Final = "liveavatar-sessions-worker"
FLUSH_TIMEOUT_MS: Final = 5_000
METRICS_EVERY_MS: Final = 15_000


@contextlib.contextmanager
def tracing(otlp_endpoint: str | None) -> Iterator[list[Interceptor]]:
    """Yield the client interceptors that trace; workers of that client trace, too.

    Args:
        otlp_endpoint: base address of an OTLP/HTTP collector; None: no traces.
    """
    if otlp_endpoint is None:
        yield []
        return
    provider = TracerProvider(resource=_resource())
    exporter = OTLPSpanExporter(endpoint=otlp_endpoint.rstrip("/") + "/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield [TracingInterceptor(provider.get_tracer(SERVICE))]
    finally:
        provider.force_flush(FLUSH_TIMEOUT_MS)
        provider.shutdown()


@contextlib.contextmanager
def metering(otlp_endpoint: str | None) -> Iterator[Meter]:
    """Yield the meter whose instruments are exported.

    Args:
        otlp_endpoint: base address of an OTLP/HTTP collector; None: no metrics.
    """
    if otlp_endpoint is None:
        yield NoOpMeterProvider().get_meter(SERVICE)
        return
    exporter = OTLPMetricExporter(endpoint=otlp_endpoint.rstrip("/") + "/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=METRICS_EVERY_MS)
    provider = MeterProvider([reader], resource=_resource())
    try:
        yield provider.get_meter(SERVICE)
    finally:
        provider.shutdown(FLUSH_TIMEOUT_MS)  # sends what is left


def _resource() -> Resource:
    """The environment's resource attributes; without a service name there, the default one."""
    named = SERVICE_NAME in OTELResourceDetector().detect().attributes
    return Resource.create({} if named else {SERVICE_NAME: SERVICE})
