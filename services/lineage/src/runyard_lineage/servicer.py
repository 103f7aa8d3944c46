"""LineageService, RecordService and HistoryService over gRPC: requests to questions; nothing else."""

# ruff: noqa: ARG002 - gRPC gives every method a context, which we never need

from __future__ import annotations

from collections.abc import AsyncIterator

from runyard.history.v1 import history_service_pb2 as history_pb
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
from runyard_lineage.erasures import Erasures
from runyard_lineage.handlers import GraphHandlers
from runyard_lineage.history import HistoryHandlers
from runyard_lineage.record import RecordHandlers
from runyard_servicekit.auth import require_role
from runyard_servicekit.edge import leave_sealed


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

    def __init__(self, handlers: HistoryHandlers, erasures: Erasures) -> None:
        """Serve these handlers."""
        self._handlers = handlers
        self._erasures = erasures

    async def ListEvents(
        self, request: history_pb.ListEventsRequest, context: object
    ) -> history_pb.ListEventsResponse:
        """Page through events in position order."""
        require_role("client", "service")
        if request.as_stored:
            leave_sealed()
        return await self._handlers.events(request)

    async def WatchEvents(
        self, request: history_pb.WatchEventsRequest, context: object
    ) -> AsyncIterator[history_pb.WatchEventsResponse]:
        """Stream events after a position."""
        require_role("client", "service")
        async for item in self._handlers.watch(request):
            yield item

    async def GetLogHead(
        self, request: history_pb.GetLogHeadRequest, context: object
    ) -> history_pb.GetLogHeadResponse:
        """Give the newest positions of both lanes."""
        require_role("client", "service")
        return await self._handlers.head()

    async def ReadTimeline(
        self, request: history_pb.ReadTimelineRequest, context: object
    ) -> AsyncIterator[history_pb.ReadTimelineResponse]:
        """Stream everything that happened to a thing."""
        require_role("client", "service")
        async for item in self._handlers.timeline(request):
            yield item

    async def GetStateAsOf(
        self, request: history_pb.GetStateAsOfRequest, context: object
    ) -> history_pb.GetStateAsOfResponse:
        """Show a thing as it was."""
        require_role("client", "service")
        return await self._handlers.state_as_of(request)

    async def ExplainRun(
        self, request: history_pb.ExplainRunRequest, context: object
    ) -> history_pb.ExplainRunResponse:
        """Say which events changed a field of a run."""
        require_role("client", "service")
        return await self._handlers.explain(request)

    async def DiffStates(
        self, request: history_pb.DiffStatesRequest, context: object
    ) -> history_pb.DiffStatesResponse:
        """Compare a thing at two moments."""
        require_role("client", "service")
        return await self._handlers.diff(request)

    async def ListEffects(
        self, request: history_pb.ListEffectsRequest, context: object
    ) -> history_pb.ListEffectsResponse:
        """Walk to everything that an event caused."""
        require_role("client", "service")
        return await self._handlers.effects(request)

    async def PriceAgain(
        self, request: history_pb.PriceAgainRequest, context: object
    ) -> history_pb.PriceAgainResponse:
        """Price recorded leases with another price book."""
        require_role("client", "service")
        return await self._handlers.price_again(request)

    async def DisputeEvent(
        self, request: history_pb.DisputeEventRequest, context: object
    ) -> history_pb.DisputeEventResponse:
        """Say that an event should not count."""
        require_role("client")
        return await self._handlers.dispute(request)

    async def ErasePerson(
        self, request: history_pb.ErasePersonRequest, context: object
    ) -> history_pb.ErasePersonResponse:
        """Shred the key of a person."""
        require_role("client")
        return await self._erasures.erase(request)
