"""OpenTelemetry metrics of a service's process."""

from __future__ import annotations

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

EXPORT_MILLISECONDS = 10_000


def configure_metering(service_name: str, otlp_endpoint: str) -> MeterProvider:
    """Set the process's meters up; numbers are exported only when there is an endpoint."""
    readers: list[MetricReader] = []
    if otlp_endpoint:
        # Imported only when used: it costs 15 MB and a quarter of a second.
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        readers.append(
            PeriodicExportingMetricReader(
                OTLPMetricExporter(endpoint=otlp_endpoint, insecure=True),
                export_interval_millis=EXPORT_MILLISECONDS,
            )
        )
    provider = MeterProvider(
        metric_readers=readers, resource=Resource.create({"service.name": f"runyard-{service_name}"})
    )
    metrics.set_meter_provider(provider)
    return provider
