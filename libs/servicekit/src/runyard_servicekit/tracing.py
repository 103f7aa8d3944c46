"""OpenTelemetry traces. The trace context of a request travels on in the envelopes of its events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import attach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()


def configure_tracing(service_name: str, otlp_endpoint: str) -> TracerProvider:
    """Set the process's tracer up; spans are exported only when there is an endpoint."""
    provider = TracerProvider(resource=Resource.create({"service.name": f"runyard-{service_name}"}))
    if otlp_endpoint:
        # Imported only when used: it costs 15 MB and a quarter of a second.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint, insecure=True))
        )
    trace.set_tracer_provider(provider)
    return provider


@contextmanager
def server_span(name: str, metadata: Mapping[str, str]) -> Iterator[None]:
    """Run a block as a server span that continues the caller's trace, in a task that does no more."""
    parent = _propagator.extract(dict(metadata))
    tracer = trace.get_tracer("runyard")
    span = tracer.start_span(name.lstrip("/"), context=parent, kind=SpanKind.SERVER)
    # Never detached: a stream whose client has left is closed by another task, which has another context.
    attach(trace.set_span_in_context(span))
    try:
        yield
    except Exception as error:
        span.record_exception(error)
        span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")
        raise
    finally:
        span.end()


def current_traceparent() -> str:
    """Give the W3C trace context of this moment; empty outside of a trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent", "")
