"""A small object store over HTTP and an artifact service over gRPC, that fail when a test tells them to."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc

from runyard.artifact.v1 import artifact_service_pb2 as messages
from runyard.artifact.v1.artifact_service_pb2_grpc import (
    ArtifactServiceServicer,
    add_ArtifactServiceServicer_to_server,
)
from runyard.artifact.v1.registry_service_pb2 import DescribeOutputsRequest, DescribeOutputsResponse
from runyard.artifact.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)
from runyard.artifact.v1.types_pb2 import Origin, PresignedRequest, UploadPart
from runyard.run.v1.types_pb2 import InputFile
from runyard_agent.artifact_client import ArtifactClient
from runyard_agent.content_cache import ContentCache
from runyard_agent.transfers import Transfers
from runyard_core.retry import Backoff

TOKEN = "agent-token"
PART_BYTES = 1000
HASTE_TRIES = 5
HASTE = Backoff(first_seconds=0.001, seconds_max=10.0, tries_max=HASTE_TRIES)


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(repr=False)
class ObjectStore:
    """Objects by path, and the failures to come."""

    address: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Answers of the next requests instead of the right one."""
    retry_after: str = ""
    """When those that fail may be asked again."""
    cuts: list[int] = field(default_factory=list)
    """The next answers with a body end after so many bytes of it."""
    redirects: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, bytes] = field(default_factory=dict)
    """What a path says when there is no such object."""
    bodies: dict[str, list[bytes]] = field(default_factory=dict)
    """What a path answers, one after the other."""
    is_racing: bool = False
    """Somebody else always stores the same bytes a moment before."""
    has_etags: bool = True

    def put(self, data: bytes) -> str:
        self.objects[f"/blobs/{sha256_of(data)}"] = data
        return sha256_of(data)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: ObjectStore

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = self._seen()
        if self.store.statuses:
            self._answer(self.store.statuses.pop(0), b"told to", {"Retry-After": self.store.retry_after})
        elif path in self.store.redirects:
            self._answer(302, b"", {"Location": self.store.redirects[path]})
        elif self.store.bodies.get(path):
            self._answer(200, self.store.bodies[path].pop(0))
        elif path not in self.store.objects:
            self._answer(404, self.store.refusals.get(path, b"no such key"))
        else:
            self._send(self.store.objects[path])

    def do_PUT(self) -> None:
        path = self._seen()
        size_bytes = int(self.headers["Content-Length"])
        data = self.rfile.read(size_bytes)
        if len(data) < size_bytes:
            self.close_connection = True
            return
        if self.store.is_racing:
            self.store.objects[path] = data
        wanted = self.headers.get("x-amz-checksum-sha256")
        if self.store.statuses:
            self._answer(self.store.statuses.pop(0), b"told to", {"Retry-After": self.store.retry_after})
        elif self.headers.get("If-None-Match") == "*" and path in self.store.objects:
            self._answer(412, b"is there")
        elif wanted is not None and wanted != base64.b64encode(hashlib.sha256(data).digest()).decode():
            self._answer(400, b"BadDigest")
        else:
            (self.store.parts if "/parts/" in path else self.store.objects)[path] = data
            self._answer(200, b"", {"ETag": f'"{sha256_of(data)[:8]}"'})

    def _seen(self) -> str:
        path = self.path.partition("?")[0]
        self.store.requests.append((self.command, path, dict(self.headers)))
        return path

    def _send(self, data: bytes) -> None:
        etag = f'"{sha256_of(data)[:16]}"'
        headers = {"ETag": etag} if self.store.has_etags else {}
        if etag in headers.values() and self.headers.get("If-None-Match") == etag:
            self._answer(304, b"", headers)
            return
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") == etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._answer(206, data[start:], headers)
        else:
            self._answer(200, data, headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status in {200, 206} and body and self.store.cuts:
            self.wfile.write(body[: self.store.cuts.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients that hang up are what is tested."""


class Catalogue(ArtifactServiceServicer):
    """An artifact service in memory; its requests lead to an ``ObjectStore``."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.committed: dict[str, messages.CommitUploadRequest] = {}
        self.seconds_given: list[float] = []
        """For each commit of one file."""
        self.begun: list[messages.BeginUploadRequest] = []
        self.failures: list[grpc.StatusCode] = []
        self.is_old = False
        """Of a version that stores files one by one."""
        self.refusals: dict[str, str] = {}
        """Codes by path, for files that are committed together."""
        self.together: list[tuple[Origin, messages.FileOfMany]] = []
        self.names: dict[str, str] = {}
        self.asked_together: list[list[str]] = []
        self.asked_blobs: list[list[str]] = []

    async def BeginUpload(self, request: Any, context: Any) -> messages.BeginUploadResponse:
        await self._check(context)
        self.begun.append(request)
        path = f"/blobs/{request.sha256}"
        if path in self.store.objects:
            return messages.BeginUploadResponse(already_stored=True)
        if request.size_bytes <= PART_BYTES or request.in_one_request:
            whole = self._put_whole(request.sha256)
            return messages.BeginUploadResponse(
                parts=[UploadPart(number=1, size_bytes=request.size_bytes, request=whole)]
            )
        parts = [
            UploadPart(
                number=index + 1,
                offset_bytes=offset,
                size_bytes=min(PART_BYTES, request.size_bytes - offset),
                request=self._put(f"/parts/{request.sha256}/{index + 1:05}", {}),
            )
            for index, offset in enumerate(range(0, request.size_bytes, PART_BYTES))
        ]
        return messages.BeginUploadResponse(parts=parts, upload_id="upload-1")

    async def CommitUpload(self, request: Any, context: Any) -> messages.CommitUploadResponse:
        await self._check(context)
        self.seconds_given.append(context.time_remaining())
        if request.upload_id:
            found = sorted(key for key in self.store.parts if request.sha256 in key)
            data = b"".join(self.store.parts[key] for key in found)
            etags = [f'"{sha256_of(self.store.parts[key])[:8]}"' for key in found]
            if sha256_of(data) != request.sha256 or etags != list(request.part_etags):
                await context.abort(grpc.StatusCode.DATA_LOSS, "parts are not the file")
            self.store.objects[f"/blobs/{request.sha256}"] = data
        if f"/blobs/{request.sha256}" not in self.store.objects:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not stored")
        self.committed[request.request_id] = request
        return messages.CommitUploadResponse()

    async def BeginUploads(self, request: Any, context: Any) -> messages.BeginUploadsResponse:
        await self._check(context)
        if self.is_old:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such call")
        known = {file.sha256 for _, file in self.together}
        return messages.BeginUploadsResponse(
            puts=[
                PresignedRequest() if file.sha256 in known else self._put_whole(file.sha256)
                for file in request.files
            ]
        )

    async def CommitUploads(self, request: Any, context: Any) -> messages.CommitUploadsResponse:
        await self._check(context)
        answer = messages.CommitUploadsResponse()
        for file in request.files:
            is_there = f"/blobs/{file.sha256}" in self.store.objects
            answer.refusals.append(self.refusals.get(file.path, "" if is_there else "OBJECT_MISSING"))
            if not answer.refusals[-1]:
                self.together.append((request.origin, file))
        return answer

    async def GetDownload(self, request: Any, context: Any) -> messages.GetDownloadResponse:
        await self._check(context)
        path = f"/blobs/{request.sha256}"
        if path not in self.store.objects:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no blob {request.sha256}")
        url = f"{self.store.address}{path}?signature=1"
        return messages.GetDownloadResponse(request=PresignedRequest(method="GET", url=url))

    async def GetDownloads(self, request: Any, context: Any) -> messages.GetDownloadsResponse:
        await self._check(context)
        if self.is_old:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such call")
        self.asked_together.append(list(request.sha256s))
        urls = [
            f"{self.store.address}/blobs/{sha256}?signature=1" if sha256 in self.names else ""
            for sha256 in request.sha256s
        ]
        requests = [PresignedRequest(method="GET", url=url) if url else PresignedRequest() for url in urls]
        return messages.GetDownloadsResponse(requests=requests)

    async def ResolveInputs(self, request: Any, context: Any) -> messages.ResolveInputsResponse:
        await self._check(context)
        answer = messages.ResolveInputsResponse(inputs=request.inputs)
        for one in answer.inputs:
            for uri in one.uris:
                sha256 = uri.removeprefix("datum://")
                if sha256 not in self.names:
                    await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no artifact {uri}")
                one.files.append(InputFile(uri=uri, path=self.names[sha256], sha256=sha256))
        return answer

    async def FindMissingBlobs(self, request: Any, context: Any) -> messages.FindMissingBlobsResponse:
        await self._check(context)
        self.asked_blobs.append([blob.sha256 for blob in request.blobs])
        return messages.FindMissingBlobsResponse(
            missing=[
                messages.MissingBlob(sha256=blob.sha256, put=self._put_whole(blob.sha256))
                for blob in request.blobs
                if f"/blobs/{blob.sha256}" not in self.store.objects
            ]
        )

    async def RecordCodeSnapshot(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def GetArtifact(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ListArtifacts(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def push(self, name: str, data: bytes) -> str:
        sha256 = self.store.put(data)
        self.names[sha256] = name
        return sha256

    def origins(self) -> list[Origin]:
        shared = [
            Origin(path=file.path, run_id=origin.run_id, attempt=origin.attempt, project=origin.project)
            for origin, file in self.together
        ]
        return [*(request.origin for request in self.committed.values()), *shared]

    def _put_whole(self, sha256: str) -> PresignedRequest:
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        return self._put(f"/blobs/{sha256}", {"x-amz-checksum-sha256": checksum, "If-None-Match": "*"})

    def _put(self, path: str, headers: dict[str, str]) -> PresignedRequest:
        return PresignedRequest(method="PUT", url=f"{self.store.address}{path}", headers=headers)

    async def _check(self, context: Any) -> None:
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        if self.failures:
            await context.abort(self.failures.pop(0), "told to")


class Names(RegistryServiceServicer):
    """Keeps what was said of outputs."""

    def __init__(self) -> None:
        self.described: list[DescribeOutputsRequest] = []
        self.problems: list[str] = []
        self.status: grpc.StatusCode | None = None
        self.seconds_given: list[float] = []

    async def DescribeOutputs(self, request: Any, context: Any) -> DescribeOutputsResponse:
        if self.status is not None:
            await context.abort(self.status, "told to")
        self.described.append(request)
        self.seconds_given.append(context.time_remaining())
        return DescribeOutputsResponse(problems=self.problems)


@dataclass(frozen=True)
class Yard:
    """The doubles, and the agent's side of them."""

    store: ObjectStore
    catalogue: Catalogue
    registry: Names
    client: ArtifactClient
    transfers: Transfers
    cache: ContentCache


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Yard]:
    store = ObjectStore()
    handler = type("BoundHandler", (Handler,), {"store": store})
    http_server = Server(("127.0.0.1", 0), handler)
    store.address = f"http://127.0.0.1:{http_server.server_address[1]}"
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    grpc_server = grpc.aio.server()
    catalogue = Catalogue(store)
    add_ArtifactServiceServicer_to_server(catalogue, grpc_server)
    registry = Names()  # type: ignore[abstract] # only what outputs need
    add_RegistryServiceServicer_to_server(registry, grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    transfers = Transfers(backoff=HASTE)
    client = ArtifactClient(f"127.0.0.1:{port}", TOKEN, transfers, patience_seconds=5)
    cache = ContentCache(folder / "cache")
    try:
        yield Yard(store, catalogue, registry, client, transfers, cache)
    finally:
        await client.close()
        transfers.close()
        cache.close()
        await grpc_server.stop(None)
        http_server.shutdown()
        http_server.server_close()
        thread.join()
