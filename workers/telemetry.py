"""Traces of sessions, by OpenTelemetry: from the call that starts one down to each utterance.

Off unless a collector's address is set. No metrics yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from temporalio.client import Interceptor
from temporalio.contrib.opentelemetry import TracingInterceptor

SERVICE: Final = "liveavatar-sessions-worker"
FLUSH_TIMEOUT_MS: Final = 5_000


@contextlib.contextmanager
def tracing(otlp_endpoint: str | None) -> Iterator[list[Interceptor]]:
    """Yield the client interceptors that trace; workers of that client trace, too.

    Args:
        otlp_endpoint: base address of an OTLP/HTTP collector; None: no traces.
    """
    if otlp_endpoint is None:
        yield []
        return
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: SERVICE}))
    exporter = OTLPSpanExporter(endpoint=otlp_endpoint.rstrip("/") + "/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield [TracingInterceptor(provider.get_tracer(SERVICE))]
    finally:
        provider.force_flush(FLUSH_TIMEOUT_MS)
        provider.shutdown()
