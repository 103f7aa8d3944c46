"""First station: gRPC requests become checked commands and queries, results become responses."""

# ruff: noqa: ARG002 - gRPC hands every method a context

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from runyard.artifact.v1 import artifact_service_pb2 as pb
from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceServicer
from runyard.artifact.v1.types_pb2 import Origin, PresignedRequest, UploadPart
from runyard_artifact.blobs import Blob
from runyard_artifact.domain.artifact import BeginUpload, CommitUpload
from runyard_artifact.domain.code import check_code
from runyard_artifact.domain.origin import (
    check_file,
    check_maker,
    check_origin,
    check_sha256,
    check_versions_before,
)
from runyard_artifact.domain.part_plan import SINGLE_PART_BYTES_MAX
from runyard_artifact.domain.reference import object_key
from runyard_artifact.handlers import FinishedUpload, Handlers, Request
from runyard_artifact.many_files import FILES_MAX, ManyFiles
from runyard_artifact.queries import CatalogueQueries, PageOf
from runyard_artifact.resolving import Resolver
from runyard_contracts.answer_size import items_that_fit
from runyard_contracts.ids import Position
from runyard_core.errors import InvalidInput
from runyard_core.presign import SignedRequest
from runyard_eventlog.moment import Moments
from runyard_replay.folding.files import leave_old_places_out
from runyard_servicekit.context import command_id, request_context
from runyard_servicekit.paging import (
    PageToken,
    decode_page_token,
    encode_page_token,
    page_query,
    page_size,
)

RpcContext = grpc.aio.ServicerContext[Any, Any]

BLOBS_MAX = 1_000
"""Most blobs of one FindMissingBlobs."""
INPUTS_MAX = 1_000
RESOLVED_BYTES_MAX = 15 * 1024 * 1024
"""Most that the files of one ResolveInputs take, with their properties: an answer holds 16 MiB."""
PART_ETAGS_MAX = 10_000
TEXT_LENGTH_MAX = 1_024
"""Longest upload id and ETag."""

_SERVICE = "artifact"


class ArtifactServicer(ArtifactServiceServicer):
    """Serves runyard.artifact.v1.ArtifactService."""

    def __init__(
        self,
        handlers: Handlers,
        many: ManyFiles,
        resolver: Resolver,
        queries: CatalogueQueries,
        moments: Moments,
    ) -> None:
        """Hand requests to these."""
        self._handlers = handlers
        self._many = many
        self._resolver = resolver
        self._queries = queries
        self._moments = moments

    async def BeginUpload(
        self, request: pb.BeginUploadRequest, context: RpcContext
    ) -> pb.BeginUploadResponse:
        """Announce a file; see the proto."""
        check_file(request.sha256, request.size_bytes)
        check_origin(request.origin)
        command = BeginUpload(sha256=request.sha256, size_bytes=request.size_bytes, origin=request.origin)
        plan = await self._handlers.begin_upload(
            command,
            _request("BeginUpload", request.request_id, request, run_id=request.origin.run_id),
            in_one_request=request.in_one_request,
        )
        return pb.BeginUploadResponse(
            already_stored=not plan.parts,
            parts=[
                UploadPart(
                    number=part.number,
                    offset_bytes=part.offset_bytes,
                    size_bytes=part.size_bytes,
                    request=_presigned(signed),
                )
                for part, signed in plan.parts
            ],
            upload_id=plan.upload_id,
        )

    async def CommitUpload(
        self, request: pb.CommitUploadRequest, context: RpcContext
    ) -> pb.CommitUploadResponse:
        """Verify and record a file; see the proto."""
        check_file(request.sha256, request.size_bytes)
        check_origin(request.origin)
        check_versions_before(request.versions_before, "versions_before")
        _check_parts(request)
        finished = FinishedUpload(
            command=CommitUpload(
                sha256=request.sha256,
                size_bytes=request.size_bytes,
                origin=request.origin,
                object_key=object_key(request.sha256),
                versions_before=request.versions_before,
            ),
            upload_id=request.upload_id,
            part_etags=request.part_etags,
        )
        artifact, position = await self._handlers.commit_upload(
            finished, _request("CommitUpload", request.request_id, request, run_id=request.origin.run_id)
        )
        leave_old_places_out(artifact)
        return pb.CommitUploadResponse(artifact=artifact, position=position)

    async def BeginUploads(
        self, request: pb.BeginUploadsRequest, context: RpcContext
    ) -> pb.BeginUploadsResponse:
        """Announce many files; see the proto."""
        commands = [
            BeginUpload(sha256=file.sha256, size_bytes=file.size_bytes, origin=origin)
            for file, origin in _files_of_many(request.files, request.origin)
        ]
        puts = await self._many.begin(
            commands, _request("BeginUploads", request.request_id, request, run_id=request.origin.run_id)
        )
        return pb.BeginUploadsResponse(puts=[_presigned(put) if put else PresignedRequest() for put in puts])

    async def CommitUploads(
        self, request: pb.CommitUploadsRequest, context: RpcContext
    ) -> pb.CommitUploadsResponse:
        """Verify and record many files; see the proto."""
        commands = [
            CommitUpload(
                sha256=file.sha256,
                size_bytes=file.size_bytes,
                origin=origin,
                object_key=object_key(file.sha256),
                versions_before=file.versions_before,
            )
            for file, origin in _files_of_many(request.files, request.origin)
        ]
        refusals, position = await self._many.commit(
            commands, _request("CommitUploads", request.request_id, request, run_id=request.origin.run_id)
        )
        return pb.CommitUploadsResponse(refusals=refusals, position=position)

    async def FindMissingBlobs(
        self, request: pb.FindMissingBlobsRequest, context: RpcContext
    ) -> pb.FindMissingBlobsResponse:
        """Say which blobs the store does not have; see the proto."""
        if len(request.blobs) > BLOBS_MAX:
            raise InvalidInput(
                f"{len(request.blobs)} blobs at once, want at most {BLOBS_MAX}: ask in several calls",
                code="TOO_MANY_BLOBS",
                field_violations={"blobs": f"more than {BLOBS_MAX}"},
            )
        for blob in request.blobs:
            check_file(blob.sha256, blob.size_bytes)
        missing = await self._handlers.find_missing(
            Blob(blob.sha256, blob.size_bytes) for blob in request.blobs
        )
        return pb.FindMissingBlobsResponse(
            missing=[pb.MissingBlob(sha256=sha256, put=_presigned(signed)) for sha256, signed in missing]
        )

    async def RecordCodeSnapshot(
        self, request: pb.RecordCodeSnapshotRequest, context: RpcContext
    ) -> pb.RecordCodeSnapshotResponse:
        """Record a code tree; see the proto."""
        check_code(request.code)
        position = await self._handlers.record_code_snapshot(
            request.code, _request("RecordCodeSnapshot", request.request_id, request)
        )
        return pb.RecordCodeSnapshotResponse(position=position)

    async def ResolveInputs(
        self, request: pb.ResolveInputsRequest, context: RpcContext
    ) -> pb.ResolveInputsResponse:
        """Turn references into files; see the proto."""
        reference_count = sum(len(wanted.uris) for wanted in request.inputs)
        if reference_count > INPUTS_MAX:
            raise InvalidInput(
                f"{reference_count} references at once, want at most {INPUTS_MAX}", code="TOO_MANY_INPUTS"
            )
        at = await self._moments.shown(request.read) if request.HasField("read") else None
        answer = pb.ResolveInputsResponse()
        size_bytes = 0
        for wanted in request.inputs:
            resolved = await self._resolver.resolve(wanted, request.project, at)
            size_bytes += resolved.ByteSize()
            if size_bytes > RESOLVED_BYTES_MAX:
                raise InvalidInput(
                    f"input {wanted.name!r} stands for {len(resolved.files)} files; with what is said of "
                    f"them all inputs take over {RESOLVED_BYTES_MAX} bytes: pack them into fewer files",
                    code="TOO_MANY_FILES",
                )
            answer.inputs.append(resolved)
        return answer

    async def GetDownload(
        self, request: pb.GetDownloadRequest, context: RpcContext
    ) -> pb.GetDownloadResponse:
        """Sign a download; see the proto."""
        check_sha256(request.sha256, "sha256")
        download = await self._handlers.download(request.sha256)
        return pb.GetDownloadResponse(request=_presigned(download.request), size_bytes=download.size_bytes)

    async def GetDownloads(
        self, request: pb.GetDownloadsRequest, context: RpcContext
    ) -> pb.GetDownloadsResponse:
        """Sign many downloads; see the proto."""
        _check_count(len(request.sha256s), "sha256s")
        for sha256 in request.sha256s:
            check_sha256(sha256, "sha256s")
        signed = await self._many.downloads(request.sha256s)
        return pb.GetDownloadsResponse(
            requests=[_presigned(one) if one else PresignedRequest() for one in signed]
        )

    async def GetArtifact(
        self, request: pb.GetArtifactRequest, context: RpcContext
    ) -> pb.GetArtifactResponse:
        """Show a file; see the proto."""
        at = await self._moments.shown(request.read)
        artifact = await self._resolver.described(request.name, at)
        leave_old_places_out(artifact)
        return pb.GetArtifactResponse(artifact=artifact, position=at)

    async def ListArtifacts(
        self, request: pb.ListArtifactsRequest, context: RpcContext
    ) -> pb.ListArtifactsResponse:
        """List files, newest first; see the proto."""
        check_maker(Origin(run_id=request.run_id))
        query = page_query("ListArtifacts", request.run_id, read=request.read)
        limit = page_size(request.page_size)
        token = decode_page_token(request.page_token, query, like=(0,))
        if token is None:
            at, before = await self._moments.shown(request.read), None
        else:
            at, before = Position(token.position), Position(token.after[0])
        found = await self._queries.page(PageOf(limit=limit + 1, run_id=request.run_id, before=before), at)
        listed = items_that_fit(found, count_max=limit)
        following = ""
        if listed.has_more:
            following = encode_page_token(PageToken(position=at, after=(listed.items[-1].position,)), query)
        return pb.ListArtifactsResponse(artifacts=listed.items, next_page_token=following, position=at)


def _request(method: str, request_id: str, message: Message, *, run_id: str = "") -> Request:
    """Make the context of a command; what a run leaves behind belongs to the run's own group of events."""
    return Request(
        command_id=command_id(_SERVICE, method, request_id),
        digest=hashlib.sha256(message.SerializeToString(deterministic=True)).digest(),
        context=request_context(_SERVICE, correlation_id=run_id),
    )


def _presigned(signed: SignedRequest) -> PresignedRequest:
    request = PresignedRequest(method=signed.method, url=signed.url, headers=signed.headers)
    request.expires_at.FromDatetime(signed.expires_at)
    return request


def _files_of_many(files: Sequence[pb.FileOfMany], shared: Origin) -> Iterator[tuple[pb.FileOfMany, Origin]]:
    """Check files that come together; gives each with its whole origin."""
    _check_count(len(files), "files")
    for file in files:
        check_file(file.sha256, file.size_bytes)
        check_versions_before(file.versions_before, "files")
        if file.size_bytes > SINGLE_PART_BYTES_MAX:
            raise InvalidInput(
                f"{file.path[:200]!r} has {file.size_bytes} bytes; a file over {SINGLE_PART_BYTES_MAX} goes "
                "up by itself, with BeginUpload",
                code="FILE_TOO_LARGE",
                field_violations={"files": "too large"},
            )
        origin = Origin()
        origin.CopyFrom(shared)
        origin.path = file.path
        check_origin(origin)
        yield file, origin


def _check_count(count: int, field: str) -> None:
    if count > FILES_MAX:
        raise InvalidInput(
            f"{count} files at once, want at most {FILES_MAX}: ask in several calls",
            code="TOO_MANY_FILES",
            field_violations={field: f"more than {FILES_MAX}"},
        )


def _check_parts(request: pb.CommitUploadRequest) -> None:
    problem = ""
    if bool(request.upload_id) != bool(request.part_etags):
        problem = "upload_id and part_etags come together"
    elif len(request.part_etags) > PART_ETAGS_MAX:
        problem = f"more than {PART_ETAGS_MAX} parts"
    elif any(len(text) > TEXT_LENGTH_MAX for text in (request.upload_id, *request.part_etags)):
        problem = f"longer than {TEXT_LENGTH_MAX} characters"
    if problem:
        raise InvalidInput(
            f"part_etags: {problem}", code="BAD_PARTS", field_violations={"part_etags": problem}
        )
