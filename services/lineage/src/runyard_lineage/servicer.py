"""LineageService, RecordService and HistoryService over gRPC: requests to questions; nothing else."""

# ruff: noqa: ARG002 - gRPC gives every method a context, which we never need

from __future__ import annotations

from collections.abc import AsyncIterator

from runyard.history.v1.history_service_pb2 import (
    GetLogHeadRequest,
    GetLogHeadResponse,
    ListEventsRequest,
    ListEventsResponse,
    WatchEventsRequest,
    WatchEventsResponse,
)
from runyard.history.v1.history_service_pb2_grpc import HistoryServiceServicer
from runyard.lineage.v1.lineage_service_pb2 import (
    ImpactRequest,
    ImpactResponse,
    TraceRequest,
    TraceResponse,
)
from runyard.lineage.v1.lineage_service_pb2_grpc import LineageServiceServicer
from runyard.record.v1.record_service_pb2 import GetRecordRequest, GetRecordResponse
from runyard.record.v1.record_service_pb2_grpc import RecordServiceServicer
from runyard_lineage.handlers import GraphHandlers
from runyard_lineage.history import HistoryHandlers
from runyard_lineage.record import RecordHandlers
from runyard_servicekit.auth import require_role


class LineageServicer(LineageServiceServicer):
    """The graph."""

    def __init__(self, handlers: GraphHandlers) -> None:
        """Serve these handlers."""
        self._handlers = handlers

    async def Trace(self, request: TraceRequest, context: object) -> TraceResponse:
        """Walk up to everything that made a thing."""
        require_role("client", "service")
        return await self._handlers.trace(request.name, request.depth_max, request.read)

    async def Impact(self, request: ImpactRequest, context: object) -> ImpactResponse:
        """Walk down to everything that a thing touched."""
        require_role("client", "service")
        return await self._handlers.impact(request.name, request.depth_max, request.read)


class RecordServicer(RecordServiceServicer):
    """The record of a run."""

    def __init__(self, handlers: RecordHandlers) -> None:
        """Serve these handlers."""
        self._handlers = handlers

    async def GetRecord(self, request: GetRecordRequest, context: object) -> GetRecordResponse:
        """Give a run with its ten boxes."""
        require_role("client", "service")
        return await self._handlers.record(request.name, request.read)


class HistoryServicer(HistoryServiceServicer):
    """The log."""

    def __init__(self, handlers: HistoryHandlers) -> None:
        """Serve these handlers."""
        self._handlers = handlers

    async def ListEvents(self, request: ListEventsRequest, context: object) -> ListEventsResponse:
        """Page through events in position order."""
        require_role("client", "service")
        return await self._handlers.events(request)

    async def WatchEvents(
        self, request: WatchEventsRequest, context: object
    ) -> AsyncIterator[WatchEventsResponse]:
        """Stream events after a position."""
        require_role("client", "service")
        async for item in self._handlers.watch(request):
            yield item

    async def GetLogHead(self, request: GetLogHeadRequest, context: object) -> GetLogHeadResponse:
        """Give the newest positions of both lanes."""
        require_role("client", "service")
        return await self._handlers.head()
