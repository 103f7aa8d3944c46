"""First station of names: gRPC requests become checked commands and queries, results become responses."""

# ruff: noqa: ARG002 - gRPC hands every method a context

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import grpc

from runyard.artifact.v1 import registry_service_pb2 as pb
from runyard.artifact.v1.registry_service_pb2_grpc import RegistryServiceServicer
from runyard.artifact.v1.registry_types_pb2 import DatasetVersion
from runyard.event.v1.read_pb2 import ReadOptions
from runyard_artifact.domain.dataset import files_of, no_dataset
from runyard_artifact.domain.model import no_model, version_of
from runyard_artifact.domain.naming import check_label, check_project, parse_dataset_version, parse_model
from runyard_artifact.domain.origin import check_file, check_maker, check_path
from runyard_artifact.handlers import Request
from runyard_artifact.registry_handlers import RegistryHandlers
from runyard_artifact.registry_queries import RegistryQueries
from runyard_contracts.ids import Position
from runyard_core.errors import InvalidInput
from runyard_eventlog.moment import Moments
from runyard_servicekit.context import command_id, request_context
from runyard_servicekit.paging import (
    PageQuery,
    PageToken,
    decode_page_token,
    encode_page_token,
    page_query,
    page_size,
)

RpcContext = grpc.aio.ServicerContext[Any, Any]

OUTPUTS_MAX = 10_000
"""Most outputs of one DescribeOutputs."""

_SERVICE = "artifact"

Key = TypeVar("Key", str, int)


class RegistryServicer(RegistryServiceServicer):
    """Serves runyard.artifact.v1.RegistryService."""

    def __init__(self, handlers: RegistryHandlers, queries: RegistryQueries, moments: Moments) -> None:
        """Hand requests to these."""
        self._handlers = handlers
        self._queries = queries
        self._moments = moments

    async def DescribeOutputs(
        self, request: pb.DescribeOutputsRequest, context: RpcContext
    ) -> pb.DescribeOutputsResponse:
        """Apply what a run says of its outputs; see the proto."""
        check_project(request.origin.project)
        check_maker(request.origin)
        if len(request.outputs) > OUTPUTS_MAX:
            raise InvalidInput(
                f"{len(request.outputs)} outputs at once, want at most {OUTPUTS_MAX}", code="TOO_MANY_OUTPUTS"
            )
        for output in request.outputs:
            check_file(output.sha256, output.size_bytes)
            check_path(output.path, "outputs.path")
        asked = Request(
            command_id=command_id(_SERVICE, "DescribeOutputs", request.request_id),
            digest=hashlib.sha256(request.SerializeToString(deterministic=True)).digest(),
            context=request_context(_SERVICE, correlation_id=request.origin.run_id),
        )
        applied = await self._handlers.describe(request.origin, request.outputs, asked)
        return pb.DescribeOutputsResponse(
            problems=applied.problems, made=applied.made, position=applied.position
        )

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: RpcContext
    ) -> pb.ListDatasetsResponse:
        """List datasets by name; see the proto."""
        query = page_query("ListDatasets", check_project(request.project), read=request.read)
        limit = page_size(request.page_size)
        at, after = await self._place(request.page_token, query, request.read, "")
        found = await self._queries.datasets(request.project, after, limit + 1, at)
        following = _following(query, at, found[limit - 1].name) if len(found) > limit else ""
        return pb.ListDatasetsResponse(datasets=found[:limit], next_page_token=following, position=at)

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: RpcContext
    ) -> pb.ListDatasetVersionsResponse:
        """List versions of a dataset, newest first; see the proto."""
        query = page_query(
            "ListDatasetVersions",
            check_project(request.project),
            check_label(request.dataset, "dataset"),
            read=request.read,
        )
        limit = page_size(request.page_size)
        at, after = await self._place(request.page_token, query, request.read, 0)
        before = Position(after) if after else None
        found = await self._queries.dataset_versions(request.project, request.dataset, before, limit + 1, at)
        if not found:
            raise no_dataset(request.dataset)
        following = _following(query, at, found[limit - 1][1]) if len(found) > limit else ""
        return pb.ListDatasetVersionsResponse(
            versions=[version for version, _ in found[:limit]], next_page_token=following, position=at
        )

    async def GetDatasetVersion(
        self, request: pb.GetDatasetVersionRequest, context: RpcContext
    ) -> pb.GetDatasetVersionResponse:
        """Show a version of a dataset with its files; see the proto."""
        project, name = check_project(request.project), parse_dataset_version(request.name)
        at = await self._moments.shown(request.read)
        state = await self._handlers.dataset(project, name.name, at)
        version, files = files_of(state, name.version, request.name)
        found = await self._queries.dataset_versions(project, name.name, None, 1, at, version)
        shown = found[0][0] if found else DatasetVersion()
        shown.files.extend(files)
        return pb.GetDatasetVersionResponse(version=shown, position=at)

    async def ListModels(self, request: pb.ListModelsRequest, context: RpcContext) -> pb.ListModelsResponse:
        """List models by name; see the proto."""
        query = page_query("ListModels", check_project(request.project), read=request.read)
        limit = page_size(request.page_size)
        at, after = await self._place(request.page_token, query, request.read, "")
        found = await self._queries.models(request.project, after, limit + 1, at)
        following = _following(query, at, found[limit - 1].name) if len(found) > limit else ""
        return pb.ListModelsResponse(models=found[:limit], next_page_token=following, position=at)

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: RpcContext
    ) -> pb.ListModelVersionsResponse:
        """List versions of a model, newest first; see the proto."""
        query = page_query(
            "ListModelVersions",
            check_project(request.project),
            check_label(request.model, "model"),
            read=request.read,
        )
        limit = page_size(request.page_size)
        at, after = await self._place(request.page_token, query, request.read, 0)
        before = after or None
        found = await self._queries.model_versions(request.project, request.model, before, limit + 1, at)
        if not found:
            raise no_model(request.model)
        following = _following(query, at, found[limit - 1].version) if len(found) > limit else ""
        return pb.ListModelVersionsResponse(versions=found[:limit], next_page_token=following, position=at)

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: RpcContext
    ) -> pb.GetModelVersionResponse:
        """Show a version of a model with its files; see the proto."""
        project, name = check_project(request.project), parse_model(request.name)
        at = await self._moments.shown(request.read)
        registered = version_of(
            await self._handlers.model(project, name.name, at), name.version, request.name
        )
        [shown] = await self._queries.model_versions(project, name.name, registered.version + 1, 1, at)
        shown.files.extend(registered.files)
        return pb.GetModelVersionResponse(version=shown, position=at)

    async def _place(
        self, text: str, query: PageQuery, read: ReadOptions, start: Key
    ) -> tuple[Position, Key]:
        """Give the position that all pages show, and what the page comes after."""
        token = decode_page_token(text, query, like=(start,))
        if token is None:
            return await self._moments.shown(read), start
        return Position(token.position), token.after[0]


def _following(query: PageQuery, at: Position, last: str | int) -> str:
    return encode_page_token(PageToken(position=at, after=(last,)), query)
