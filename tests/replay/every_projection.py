"""Every projection of every service: what replay equality is proven for; ``found`` finds a missing one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Lane
from runyard.node.v1.types_pb2 import Node
from runyard.run.v1.types_pb2 import Run
from runyard_artifact.projections.catalogue import CatalogueProjection
from runyard_artifact.projections.registry import RegistryProjection
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import Projection
from runyard_cost.projections.leases import CostProjection
from runyard_lineage.projections.edges import EdgesProjection
from runyard_metrics.projections.runs import RunsProjection
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_scheduler.projections.scheduler import SchedulerProjection


@dataclass(frozen=True)
class Subject:
    """A projection, where its service keeps its tables, and the lane that it folds."""

    service: str
    projection: Projection[RecordedEvent]
    lane: Lane.ValueType = Lane.LANE_DOMAIN
    documents: Mapping[str, type[Message]] = field(default_factory=dict)
    """Tables whose column "document" is a serialised message, with its class."""

    def __str__(self) -> str:
        return f"{self.service}/{self.projection.name}"


EVERY = (
    Subject("scheduler", SchedulerProjection(), documents={"run": Run, "run_part": Run, "node": Node}),
    Subject("artifact", CatalogueProjection()),
    Subject("artifact", RegistryProjection()),
    Subject("metrics", TelemetryProjection(), Lane.LANE_TELEMETRY),
    Subject("metrics", RunsProjection()),
    Subject("cost", CostProjection()),
    Subject("lineage", EdgesProjection()),
)


def found() -> Iterator[type]:
    """Give every class in a service's ``projections`` that has the shape of one."""
    for service in ("scheduler", "artifact", "metrics", "cost", "lineage"):
        package = importlib.import_module(f"runyard_{service}.projections")
        for module_info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{module_info.name}")
            for each in vars(module).values():
                is_own = isinstance(each, type) and each.__module__ == module.__name__
                if is_own and all(
                    hasattr(each, name)
                    for name in ("name", "version", "tables", "event_types", "reads", "apply")
                ):
                    yield each
