"""OpenTelemetry spans of attempts: the trace of the submit goes on here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from runyard.agent.v1.agent_service_pb2 import LeaseGrant

_propagator = TraceContextTextMapPropagator()


def configure_tracing(node_id: str, otlp_endpoint: str) -> None:
    """Export spans when there is an endpoint; without one the API's own no-op tracer stays."""
    if not otlp_endpoint:
        return
    # Imported only when used: it costs 15 MB and a quarter of a second.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "runyard-agent", "service.instance.id": node_id})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint, insecure=True)))
    trace.set_tracer_provider(provider)


@contextmanager
def attempt_span(name: str, grant: LeaseGrant) -> Iterator[None]:
    """Run a block as a span of the grant's trace, below the span that is open here."""
    parent = None
    if not trace.get_current_span().get_span_context().is_valid and grant.traceparent:
        parent = _propagator.extract({"traceparent": grant.traceparent})
    attributes: dict[str, str | int] = {
        "runyard.run_id": grant.run_id,
        "runyard.attempt": grant.attempt,
        "runyard.step": grant.spec.step,
    }
    tracer = trace.get_tracer("runyard_agent")
    with tracer.start_as_current_span(name, context=parent, attributes=attributes):
        yield
