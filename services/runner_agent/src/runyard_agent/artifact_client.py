"""The agent's way to the artifact service, and by its presigned requests to the object store."""

from __future__ import annotations

import contextlib
import hashlib
import http
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import grpc

from runyard.artifact.v1.artifact_service_pb2 import (
    BeginUploadRequest,
    BeginUploadResponse,
    BeginUploadsRequest,
    BlobRef,
    CommitUploadRequest,
    CommitUploadsRequest,
    FileOfMany,
    FindMissingBlobsRequest,
    GetDownloadRequest,
    GetDownloadsRequest,
    ListArtifactsRequest,
    ResolveInputsRequest,
)
from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard.artifact.v1.registry_service_pb2 import DescribeOutputsRequest, DescribeOutputsResponse
from runyard.artifact.v1.registry_service_pb2_grpc import RegistryServiceStub
from runyard.artifact.v1.registry_types_pb2 import DescribedOutput
from runyard.artifact.v1.types_pb2 import Artifact, Origin, PresignedRequest, UploadPart
from runyard.run.v1.types_pb2 import Input
from runyard_agent.gate import Gate, open_channel
from runyard_agent.http_connections import Request, RequestRefused
from runyard_agent.transfers import Transfers
from runyard_contracts import gate as gate_names
from runyard_contracts.ids import deterministic_id, uuid7
from runyard_core import errors
from runyard_core.fan_out import fan_out
from runyard_core.retry import Backoff, Retries

_CALL_SECONDS_MAX = 20.0
# The service looks at each in the log and may write an event of it: many would never be through in that.
_CALL_SECONDS_OF_EACH_OUTPUT = 0.05
# The service reads what was made of parts back, two files at a time: others may come before this one. A call
# that ends too early is worse than one that ends too late, as the reading begins anew.
_COMMITTED_BYTES_A_SECOND = 20_000_000
_BACKOFF = Backoff(first_seconds=0.1, seconds_max=2.0)
_FILES_A_PAGE = 1000
_PARTS_AT_ONCE = 3
_DOWNLOADS_AT_ONCE = 500
_SENT_AGAIN_BYTES_MAX = 64 << 20
"""Larger files are sent in one request once. If it is cut they go in parts, so that little is sent again."""
_PASSING = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED}
)
_ERRORS: dict[grpc.StatusCode, type[errors.RunyardError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidInput,
    grpc.StatusCode.FAILED_PRECONDITION: errors.Rejected,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.IdReused,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.DATA_LOSS: errors.Corrupt,
}
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
RequestMessage = TypeVar("RequestMessage")
ResponseMessage = TypeVar("ResponseMessage")


class _Silent(errors.Unavailable):
    """The service gave no answer for all of the patience."""


class ArtifactClient:
    """Calls ``ArtifactService`` with the agent's token and moves the bytes.

    Every call has a deadline and is tried again while the service does not answer, for as long as
    ``patience_seconds``: a service that is restarted must not cost a run its outputs.
    """

    def __init__(
        self,
        address: str,
        token: str,
        transfers: Transfers,
        *,
        patience_seconds: float = 600.0,
        call_seconds_max: float = _CALL_SECONDS_MAX,
        gate: Gate | None = None,
    ) -> None:
        """Open a channel; nothing is sent before the first call."""
        self._channel = open_channel(address, gate, gate_names.ARTIFACT, _CHANNEL_OPTIONS)
        self._service: ArtifactServiceStub = ArtifactServiceStub(self._channel)
        self._registry: RegistryServiceStub = RegistryServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._transfers = transfers
        self._patience_seconds = patience_seconds
        self._call_seconds_max = call_seconds_max

    @property
    def transfers(self) -> Transfers:
        """The way to addresses that are not the store's."""
        return self._transfers

    async def close(self) -> None:
        """Close the channel; ``transfers`` belongs to the caller."""
        await self._channel.close()

    async def resolve_inputs(self, inputs: Sequence[Input], project: str) -> list[Input]:
        """Fill in the files of references that the service knows, by the names of a project.

        Raises:
            NotFound: there is no such file. Other ``RunyardError`` as the service says.
        """
        answer = await self._call(
            self._service.ResolveInputs, ResolveInputsRequest(inputs=inputs, project=project)
        )
        return list(answer.inputs)

    async def files_of_run(self, run_id: str) -> list[Artifact]:
        """Give every file that a run has left behind so far.

        Raises:
            RunyardError: as the service says.
        """
        found: list[Artifact] = []
        request = ListArtifactsRequest(run_id=run_id, page_size=_FILES_A_PAGE)
        while True:
            page = await self._call(self._service.ListArtifacts, request)
            found.extend(page.artifacts)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def downloads(self, sha256s: Sequence[str]) -> dict[str, Request]:
        """Ask at once for what will be downloaded soon; what is missing in the answer is asked for then."""
        found: dict[str, Request] = {}
        for start in range(0, len(sha256s), _DOWNLOADS_AT_ONCE):
            together = sha256s[start : start + _DOWNLOADS_AT_ONCE]
            try:
                answer = await self._service.GetDownloads(
                    GetDownloadsRequest(sha256s=together),
                    metadata=self._metadata,
                    timeout=self._call_seconds_max,
                )
            except grpc.aio.AioRpcError:
                # Away, or older than this call.
                break
            answered = zip(together, answer.requests, strict=True)
            found |= {sha256: _plain(request) for sha256, request in answered if request.url}
        return found

    async def download(self, sha256: str, destination: Path, known: Request | None = None) -> int:
        """Fetch a blob and hold its bytes against its hash; gives its size in bytes.

        ``known`` is what ``downloads`` gave for it.

        Raises:
            NotFound: the store does not have it.
            Corrupt: CHECKSUM_MISMATCH, the store has other bytes.
            Unavailable: no answer for longer than the patience. Other ``RunyardError`` as the service says.
        """
        if known is not None:
            # If it has expired, or its bytes are gone: asked for anew, with patience.
            with contextlib.suppress(RequestRefused, errors.Unavailable):
                return (await self._transfers.get(known, destination, sha256=sha256)).size_bytes
        return await self._patiently(lambda: self._download_once(sha256, destination))

    async def upload(
        self, descriptor: int, *, sha256: str, size_bytes: int, origin: Origin, versions_before: int = 0
    ) -> None:
        """Store an open file and record where it came from. Idempotent.

        ``versions_before`` counts the versions of its path that the attempt stored before this one.

        Raises:
            RequestRefused: the store says no, for instance because the bytes are not those of ``sha256``.
            Corrupt: FILE_CHANGED, the file became shorter.
            Unavailable: no answer for longer than the patience. Other ``RunyardError`` as the service says.
        """
        wanted = CommitUploadRequest(
            sha256=sha256, size_bytes=size_bytes, origin=origin, versions_before=versions_before
        )
        if size_bytes > _SENT_AGAIN_BYTES_MAX:
            try:
                await self._upload_once(descriptor, wanted, in_one_request=True)
            except _Silent:
                raise
            except (RequestRefused, errors.Rejected, errors.Unavailable) as error:
                if isinstance(error, RequestRefused) and error.status == http.HTTPStatus.BAD_REQUEST:
                    # The file changed since it was hashed: in parts it would be read back to find out.
                    raise
                logger.info("%s did not go up in one request, so it goes in parts: %s", origin.path, error)
            else:
                return
        await self._patiently(lambda: self._upload_once(descriptor, wanted))

    async def begin_uploads(self, files: Sequence[FileOfMany], origin: Origin) -> list[Request | None]:
        """Announce files of one origin, each for one request; None where only the commit is left.

        Raises:
            RunyardError: as the service says, which may be older and not know this call.
        """
        request = BeginUploadsRequest(request_id=uuid7(), origin=origin, files=files)
        answer = await self._call(self._service.BeginUploads, request)
        return [_plain(put) if put.url else None for put in answer.puts]

    async def put(self, request: Request, descriptor: int, size_bytes: int) -> None:
        """Send a whole open file as the body of a request that ``begin_uploads`` gave.

        Raises:
            RequestRefused, Corrupt: it changed since it was hashed.
            Unavailable: no answer after all retries.
        """
        try:
            await self._transfers.put(request, descriptor, offset_bytes=0, size_bytes=size_bytes)
        except RequestRefused as refused:
            # If-None-Match is signed: the same bytes are there already.
            if refused.status != http.HTTPStatus.PRECONDITION_FAILED:
                raise

    async def commit_uploads(self, files: Sequence[FileOfMany], origin: Origin) -> list[str]:
        """Record files whose bytes are sent; gives for each the code of why it was refused, or nothing.

        Raises:
            RunyardError: as the service says.
        """
        names = "".join(f"{file.sha256} {file.versions_before} {file.path}\n" for file in files)
        digest = hashlib.sha256(names.encode()).hexdigest()
        request_id = deterministic_id("CommitUploads", origin.run_id, origin.attempt, digest)
        request = CommitUploadsRequest(request_id=request_id, origin=origin, files=files)
        return list((await self._call(self._service.CommitUploads, request)).refusals)

    async def store_blob(self, content: bytes, sha256: str) -> None:
        """Store bytes that nobody owns, unless the store has them.

        Raises:
            RunyardError: as the service or the store says.
        """
        blob = BlobRef(sha256=sha256, size_bytes=len(content))
        answer = await self._call(self._service.FindMissingBlobs, FindMissingBlobsRequest(blobs=[blob]))
        for missing in answer.missing:
            descriptor = os.memfd_create("blob", os.MFD_CLOEXEC)
            try:
                os.write(descriptor, content)
                await self.put(_plain(missing.put), descriptor, len(content))
            finally:
                os.close(descriptor)

    async def describe_outputs(
        self, request_id: str, origin: Origin, outputs: Sequence[DescribedOutput]
    ) -> DescribeOutputsResponse:
        """Apply what a run says of its stored outputs. Idempotent.

        Raises:
            RunyardError: as the service says.
        """
        request = DescribeOutputsRequest(request_id=request_id, origin=origin, outputs=outputs)
        more_seconds = _CALL_SECONDS_OF_EACH_OUTPUT * len(outputs)
        return await self._call(self._registry.DescribeOutputs, request, more_seconds)

    async def _download_once(self, sha256: str, destination: Path) -> int:
        answer = await self._call(self._service.GetDownload, GetDownloadRequest(sha256=sha256))
        fetched = await self._transfers.get(_plain(answer.request), destination, sha256=sha256)
        return fetched.size_bytes

    async def _upload_once(
        self, descriptor: int, wanted: CommitUploadRequest, *, in_one_request: bool = False
    ) -> None:
        # A new id each time: a first answer may hold requests that have expired since.
        begun = await self._call(
            self._service.BeginUpload,
            BeginUploadRequest(
                request_id=uuid7(),
                sha256=wanted.sha256,
                size_bytes=wanted.size_bytes,
                origin=wanted.origin,
                in_one_request=in_one_request,
            ),
        )
        etags = [] if begun.already_stored else await self._put_parts(descriptor, begun)
        origin = wanted.origin
        which = (wanted.sha256, origin.run_id, origin.attempt, origin.path, wanted.versions_before)
        commit = CommitUploadRequest(
            request_id=deterministic_id("CommitUpload", begun.upload_id, *which),
            upload_id=begun.upload_id,
            part_etags=etags if begun.upload_id else [],
        )
        commit.MergeFrom(wanted)
        more_seconds = wanted.size_bytes / _COMMITTED_BYTES_A_SECOND
        await self._call(self._service.CommitUpload, commit, more_seconds)

    async def _put_parts(self, descriptor: int, begun: BeginUploadResponse) -> list[str]:
        async def put(part: UploadPart) -> str:
            try:
                if part.size_bytes > _SENT_AGAIN_BYTES_MAX:
                    return await self._transfers.put_once(_plain(part.request), descriptor, part.size_bytes)
                return await self._transfers.put(
                    _plain(part.request),
                    descriptor,
                    offset_bytes=part.offset_bytes,
                    size_bytes=part.size_bytes,
                )
            except RequestRefused as refused:
                # If-None-Match is signed: somebody else has just stored the same bytes.
                if refused.status == http.HTTPStatus.PRECONDITION_FAILED and not begun.upload_id:
                    return ""
                raise

        return await fan_out(_PARTS_AT_ONCE, put, list(begun.parts))

    async def _patiently(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Do something again from its start while the store is away, and once when a part of it got stale."""
        gives_up_at: float | None = None
        is_repeated = False
        while True:
            try:
                return await attempt()
            except _Silent:
                raise
            except errors.Unavailable:
                # From the first failure on: until then it may have sent for hours.
                if gives_up_at is None:
                    gives_up_at = time.monotonic() + self._patience_seconds
                elif time.monotonic() >= gives_up_at:
                    raise
            except (RequestRefused, errors.Rejected) as refused:
                # A request has expired, or what was stored is gone: anything else will not change.
                is_stale = not isinstance(refused, RequestRefused) or refused.status == 403
                if is_repeated or not is_stale:
                    raise
                is_repeated = True

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestMessage, ResponseMessage],
        request: RequestMessage,
        more_seconds: float = 0.0,
    ) -> ResponseMessage:
        seconds_max = self._call_seconds_max + more_seconds
        retries = Retries("asking the artifact service", _BACKOFF, logger, seconds_max=self._patience_seconds)
        while True:
            try:
                answer = await method(request, metadata=self._metadata, timeout=seconds_max)
            except grpc.aio.AioRpcError as error:
                status, sentence = error.code(), error.details() or "no details"
                if status not in _PASSING:
                    raise _ERRORS.get(status, errors.RunyardError)(sentence) from error
                silent = f"the artifact service gave no answer for {self._patience_seconds:g} s"
                await retries.pause(_Silent(f"{silent}: {sentence}"), sentence)
            else:
                retries.succeeded()
                return answer


def _plain(request: PresignedRequest) -> Request:
    return Request(request.method, request.url, dict(request.headers), is_of_store=True)
