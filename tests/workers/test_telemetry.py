"""The resource under which traces and metrics are exported."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from temporalio.contrib.opentelemetry import TracingInterceptor

from workers.telemetry import SERVICE, tracing

COLLECTOR = "http://127.0.0.1:9"


def resource_attributes() -> dict[str, object]:
    with tracing(COLLECTOR) as interceptors:
        (interceptor,) = interceptors
        assert isinstance(interceptor, TracingInterceptor)
        tracer = interceptor.tracer
        resource = getattr(tracer, "resource", None)
        assert resource is not None, TracerProvider
        return dict(resource.attributes)


def test_the_default_service_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)

    assert resource_attributes()["service.name"] == SERVICE


def test_otel_service_name_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was ignored: every deployment's workers had one name in the collector."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "avatars-eu")

    assert resource_attributes()["service.name"] == "avatars-eu"


def test_resource_attributes_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=avatars,deployment.zone=b")

    found = resource_attributes()

    assert (found["service.name"], found["deployment.zone"]) == ("avatars", "b")
