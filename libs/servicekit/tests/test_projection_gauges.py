"""The numbers that say how far a read model is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from runyard_eventlog.projector import Lag, Projector
from runyard_servicekit.projection_gauges import observe_projectors


@dataclass
class Named:
    name: str


@dataclass
class Standing:
    """What the gauges look at of a projector."""

    projection: Named
    lag: Lag
    stopped: BaseException | None = None


def exported(*projectors: Standing) -> Mapping[tuple[str, str], float]:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    observe_projectors(provider.get_meter("test"), "metrics", cast("list[Projector]", projectors))
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        (metric.name, str((point.attributes or {})["projection"])): point.value  # type: ignore[union-attr]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    provider.shutdown()
    return found


def test_each_projector_exports_lags_and_parked_events() -> None:
    values = exported(
        Standing(Named("runs"), Lag(7, 1.5, 2, 60.0)),
        Standing(Named("telemetry"), Lag(0, 0.1, 0, 0.0), RuntimeError("stopped")),
    )
    assert values == {
        ("runyard.projection.position_lag", "runs"): 7,
        ("runyard.projection.time_lag", "runs"): 1.5,
        ("runyard.projection.parked", "runs"): 2,
        ("runyard.projection.oldest_parked_age", "runs"): 60.0,
        ("runyard.projection.stopped", "runs"): 0,
        ("runyard.projection.position_lag", "telemetry"): 0,
        ("runyard.projection.time_lag", "telemetry"): 0.1,
        ("runyard.projection.parked", "telemetry"): 0,
        ("runyard.projection.oldest_parked_age", "telemetry"): 0,
        ("runyard.projection.stopped", "telemetry"): 1,
    }
