from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
import urllib3
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from runyard.artifact.v1 import artifact_service_pb2 as pb
from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard.artifact.v1.types_pb2 import Origin, PresignedRequest
from runyard.event.v1.envelope_pb2 import Lane
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Bucket, Database

TOKEN = "token-of-alice"
MODEL = Origin(path="model.pt", run_id="run-1", attempt=1, project="digits")


@dataclass(frozen=True, slots=True)
class Yard:
    """A running artifact service and its store."""

    artifact: ArtifactServiceStub
    database: Database
    bucket: Bucket
    address: str

    async def put(self, data: bytes, origin: Origin) -> pb.CommitUploadResponse:
        """Store a small file as a client does."""
        sha256 = sha256_of(data)
        begun = await self.artifact.BeginUpload(
            pb.BeginUploadRequest(request_id=new_id(), sha256=sha256, size_bytes=len(data), origin=origin)
        )
        for part in begun.parts:
            end = part.offset_bytes + part.size_bytes
            assert send(part.request, data[part.offset_bytes : end])[0] == 200
        return await self.commit(sha256, len(data), origin)

    async def commit(
        self,
        sha256: str,
        size_bytes: int,
        origin: Origin,
        *,
        upload_id: str = "",
        part_etags: Sequence[str] = (),
    ) -> pb.CommitUploadResponse:
        """Commit an upload under a new request id."""
        committed: pb.CommitUploadResponse = await self.artifact.CommitUpload(
            pb.CommitUploadRequest(
                request_id=new_id(),
                sha256=sha256,
                size_bytes=size_bytes,
                origin=origin,
                upload_id=upload_id,
                part_etags=part_etags,
            )
        )
        return committed


def send(
    request: PresignedRequest, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, Mapping[str, str]]:
    """Send a presigned request as it stands, or with other headers."""
    sent = dict(request.headers) if headers is None else dict(headers)
    with urllib3.PoolManager(retries=False) as pool:
        answer = pool.request(request.method, request.url, body=body, headers=sent)
        return answer.status, answer.data, answer.headers


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def new_id() -> str:
    return str(uuid.uuid4())


def reason(error: grpc.aio.AioRpcError) -> str:
    """Give the stable reason code of a refused call."""
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


def begin(data: bytes, origin: Origin = MODEL) -> pb.BeginUploadRequest:
    return pb.BeginUploadRequest(
        request_id=new_id(), sha256=sha256_of(data), size_bytes=len(data), origin=origin
    )


async def event_types(yard: Yard) -> list[str]:
    async with await PostgresEventLog.connect(yard.database.url("reader")) as log:
        return [event.type for event in (await log.read(Lane.LANE_DOMAIN)).events]
