"""One object with a typed stub for each service of a yard."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import grpc

from runyard_client.channel import YardChannel
from runyard_client.context import Context

if TYPE_CHECKING:
    from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
    from runyard.artifact.v1.registry_service_pb2_grpc import RegistryServiceStub
    from runyard.cost.v1.cost_service_pb2_grpc import CostServiceStub
    from runyard.history.v1.history_service_pb2_grpc import HistoryServiceStub
    from runyard.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
    from runyard.metric.v1.metric_service_pb2_grpc import MetricServiceStub
    from runyard.node.v1.enrolment_service_pb2_grpc import EnrolmentServiceStub
    from runyard.projection.v1.projection_service_pb2_grpc import ProjectionServiceStub
    from runyard.record.v1.record_service_pb2_grpc import RecordServiceStub
    from runyard.run.v1.hands_on_service_pb2_grpc import HandsOnServiceStub
    from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
    from runyard.run.v1.secret_service_pb2_grpc import SecretServiceStub


class Client:
    """A connection to a yard: ``async with Client.connect(load_context()) as client``.

    Stubs are made, and their generated code imported, when first used: a caller pays only for what it calls.
    Unary calls are awaited and take ``timeout``; watches are iterated. Both raise ``ClientError``.
    """

    def __init__(self, context: Context) -> None:
        """Keep the context; nothing is sent before the first call."""
        self._context = context
        self._channels: dict[str, YardChannel] = {}

    @classmethod
    def connect(cls, context: Context) -> Self:
        """Make a client of the yard that the context names."""
        return cls(context)

    @property
    def context(self) -> Context:
        """The yard that this client talks to."""
        return self._context

    @property
    def scheduler(self) -> SchedulerServiceStub:
        """Runs and nodes."""
        from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

        return SchedulerServiceStub(self._channel("scheduler"))

    @property
    def secrets(self) -> SecretServiceStub:
        """Secrets of projects; their values cannot be had back."""
        from runyard.run.v1.secret_service_pb2_grpc import SecretServiceStub

        return SecretServiceStub(self._channel("scheduler"))

    @property
    def enrolment(self) -> EnrolmentServiceStub:
        """How machines become nodes, and stop being nodes."""
        from runyard.node.v1.enrolment_service_pb2_grpc import EnrolmentServiceStub

        return EnrolmentServiceStub(self._channel("scheduler"))

    @property
    def hands_on(self) -> HandsOnServiceStub:
        """Shells beside running attempts, and their ports. ``read`` and ``write`` raise ``ClientError``."""
        from runyard.run.v1.hands_on_service_pb2_grpc import HandsOnServiceStub

        return HandsOnServiceStub(self._channel("scheduler"))

    @property
    def artifacts(self) -> ArtifactServiceStub:
        """Files and code snapshots."""
        from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub

        return ArtifactServiceStub(self._channel("artifact"))

    @property
    def registry(self) -> RegistryServiceStub:
        """Datasets, models and aliases of files."""
        from runyard.artifact.v1.registry_service_pb2_grpc import RegistryServiceStub

        return RegistryServiceStub(self._channel("artifact"))

    @property
    def metrics(self) -> MetricServiceStub:
        """Metric points, samples and logs."""
        from runyard.metric.v1.metric_service_pb2_grpc import MetricServiceStub

        return MetricServiceStub(self._channel("metrics"))

    @property
    def costs(self) -> CostServiceStub:
        """The price book, and what runs cost."""
        from runyard.cost.v1.cost_service_pb2_grpc import CostServiceStub

        return CostServiceStub(self._channel("cost"))

    @property
    def lineage(self) -> LineageServiceStub:
        """The provenance graph."""
        from runyard.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub

        return LineageServiceStub(self._channel("lineage"))

    @property
    def records(self) -> RecordServiceStub:
        """Whole records of runs."""
        from runyard.record.v1.record_service_pb2_grpc import RecordServiceStub

        return RecordServiceStub(self._channel("lineage"))

    @property
    def history(self) -> HistoryServiceStub:
        """The log itself."""
        from runyard.history.v1.history_service_pb2_grpc import HistoryServiceStub

        return HistoryServiceStub(self._channel("lineage"))

    def projections(self, service: str) -> ProjectionServiceStub:
        """The read models of a service, by its name: "cost"."""
        from runyard.projection.v1.projection_service_pb2_grpc import ProjectionServiceStub

        return ProjectionServiceStub(self._channel(service))

    async def close(self) -> None:
        """Close every connection."""
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _channel(self, service: str) -> grpc.aio.Channel:
        channel = self._channels.get(service)
        if channel is None:
            context = self._context
            channel = YardChannel(service, context.addresses[service], context.token, context.gate)
            self._channels[service] = channel
        # Generated stubs ask a channel for nothing but what YardChannel has.
        return cast("grpc.aio.Channel", channel)
