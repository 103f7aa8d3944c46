"""How far a service's projectors are, as OpenTelemetry gauges.

| gauge | unit | meaning |
| --- | --- | --- |
| runyard.projection.position_lag | events | of the lane, not looked at yet |
| runyard.projection.time_lag | s | from recording to visible, of the last event; grows while it is stopped |
| runyard.projection.parked | events | that wait for a person |
| runyard.projection.oldest_parked_age | s | age of the oldest of them; 0 when there is none |
| runyard.projection.stopped | 1 | 1 while it cannot go on |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from runyard_eventlog.projector import Projector

_GAUGES: Mapping[str, tuple[str, str, Callable[[Projector], float]]] = {
    "position_lag": ("{event}", "Events not looked at yet.", lambda each: each.lag.position_lag),
    "time_lag": (
        "s",
        "From recording to visible, of the last event.",
        lambda each: each.lag.time_lag_seconds,
    ),
    "parked": ("{event}", "Events that wait for a person.", lambda each: each.lag.parked_count),
    "oldest_parked_age": ("s", "Age of the oldest of them.", lambda each: each.lag.oldest_parked_seconds),
    "stopped": ("1", "1 while it cannot go on.", lambda each: float(each.stopped is not None)),
}


def observe_projectors(meter: Meter, service: str, projectors: Sequence[Projector]) -> None:
    """Export the gauges of projectors for as long as the meter's provider lives."""
    for name, (unit, description, value) in _GAUGES.items():
        meter.create_observable_gauge(
            f"runyard.projection.{name}",
            callbacks=[_observer(service, projectors, value)],
            unit=unit,
            description=description,
        )


def _observer(
    service: str, projectors: Sequence[Projector], value: Callable[[Projector], float]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        for projector in projectors:
            yield Observation(value(projector), {"service": service, "projection": projector.projection.name})

    return observe
