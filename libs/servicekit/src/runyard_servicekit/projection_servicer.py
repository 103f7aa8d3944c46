"""ProjectionService over gRPC, the same for every service: requests to operations; nothing else."""

# ruff: noqa: ARG002 - gRPC gives every method a context, which we never need

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc
from google.protobuf import json_format

from runyard.projection.v1 import projection_service_pb2 as pb
from runyard.projection.v1 import types_pb2
from runyard.projection.v1.projection_service_pb2_grpc import (
    ProjectionServiceServicer,
    add_ProjectionServiceServicer_to_server,
)
from runyard_contracts.envelope import UndecodableEventError
from runyard_contracts.registry import UnknownEventTypeError
from runyard_contracts.upcasting import NoUpcasterError
from runyard_eventlog.dead_letters import DeadLetter
from runyard_servicekit.auth import require_role
from runyard_servicekit.context import command_id
from runyard_servicekit.paging import PageToken, decode_page_token, encode_page_token, page_query, page_size
from runyard_servicekit.projection_operations import ProjectionOperations

PROJECTION_SERVICE: str = pb.DESCRIPTOR.services_by_name["ProjectionService"].full_name


class ProjectionServicer(ProjectionServiceServicer):
    """The read models of one service."""

    def __init__(self, service: str, operations: ProjectionOperations) -> None:
        """Serve these operations."""
        self._service = service
        self._operations = operations

    def register(self, server: grpc.aio.Server) -> None:
        """Add it to a server."""
        add_ProjectionServiceServicer_to_server(self, server)

    async def ListProjections(
        self, request: pb.ListProjectionsRequest, context: object
    ) -> pb.ListProjectionsResponse:
        """Give every read model."""
        require_role("client", "service")
        return pb.ListProjectionsResponse(projections=await self._operations.describe())

    async def RebuildProjection(
        self, request: pb.RebuildProjectionRequest, context: object
    ) -> AsyncIterator[pb.RebuildProjectionResponse]:
        """Rebuild, compare, swap."""
        require_role("client", "service")
        rebuild_id = command_id(self._service, "RebuildProjection", request.request_id)
        rebuilding = self._operations.rebuild(
            request.projection,
            rebuild_id,
            accepts_differences=request.accept_differences,
            from_replaced=request.from_replaced,
        )
        async with aclosing(rebuilding) as steps:
            async for progress in steps:
                yield pb.RebuildProjectionResponse(progress=progress)

    async def VerifyProjection(
        self, request: pb.VerifyProjectionRequest, context: object
    ) -> AsyncIterator[pb.VerifyProjectionResponse]:
        """Prove that it is what the log says."""
        require_role("client", "service")
        async with aclosing(self._operations.verify(request.projection)) as steps:
            async for progress in steps:
                yield pb.VerifyProjectionResponse(progress=progress)

    async def DropBuilds(self, request: pb.DropBuildsRequest, context: object) -> pb.DropBuildsResponse:
        """Drop tables that are not shown."""
        require_role("client", "service")
        command_id(self._service, "DropBuilds", request.request_id)
        tables = await self._operations.drop(request.projection, request.kind)
        return pb.DropBuildsResponse(tables=tables)

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: object
    ) -> pb.ListDeadLettersResponse:
        """Page through parked events."""
        require_role("client", "service")
        size = page_size(request.page_size)
        query = page_query(request.projection, request.stream, read=None)
        token = decode_page_token(request.page_token, query, like=("", 0))
        after = ("", 0) if token is None else token.after
        found = await self._operations.dead_letters(
            request.projection, after=after, limit=size, stream=request.stream
        )
        answer = pb.ListDeadLettersResponse(dead_letters=[_message(name, letter) for name, letter in found])
        if len(found) == size:
            name, last = found[-1]
            answer.next_page_token = encode_page_token(PageToken(0, (name, last.position)), query)
        return answer

    async def GetDeadLetter(
        self, request: pb.GetDeadLetterRequest, context: object
    ) -> pb.GetDeadLetterResponse:
        """Give one with its event."""
        require_role("client", "service")
        name, letter, event = await self._operations.dead_letter(request.projection, request.position)
        answer = pb.GetDeadLetterResponse(dead_letter=_message(name, letter), envelope=event.envelope)
        try:
            answer.data_json = json_format.MessageToJson(
                event.message, preserving_proto_field_name=True, indent=None
            )
        except (UnknownEventTypeError, UndecodableEventError, NoUpcasterError):
            answer.data_json = ""
        return answer

    async def RequeueDeadLetters(
        self, request: pb.RequeueDeadLettersRequest, context: object
    ) -> pb.RequeueDeadLettersResponse:
        """Apply parked events again."""
        require_role("client", "service")
        command_id(self._service, "RequeueDeadLetters", request.request_id)
        name, done = await self._operations.requeue(
            request.projection, stream=request.stream, limit=request.limit
        )
        return pb.RequeueDeadLettersResponse(
            requeued=[_message(name, letter) for letter in done.applied],
            failed=[_message(name, letter) for letter in done.failed],
            remaining_count=done.remaining_count,
        )


def _message(projection: str, letter: DeadLetter) -> types_pb2.DeadLetter:
    message = types_pb2.DeadLetter(
        projection=projection,
        position=letter.position,
        stream=letter.stream,
        event_id=letter.event_id,
        type=letter.type,
        reason=types_pb2.DeadLetterReason.Value(f"DEAD_LETTER_REASON_{letter.reason}"),
        error=letter.error,
    )
    message.parked_at.FromDatetime(letter.parked_at)
    return message
