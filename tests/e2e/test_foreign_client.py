"""A client that knows nothing of ours but an address and a token: it learns the messages by reflection."""

from __future__ import annotations

import hashlib
import http.client
import urllib.parse
import uuid
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.e2e.test_record import BOXES
from tests.e2e.yard import TINY, Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(180), pytest.mark.xdist_group("yard")]


class Stranger:
    """Calls methods by name with messages built from what the server says of itself."""

    def __init__(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._metadata = metadata
        self._pool = descriptor_pool.DescriptorPool()
        self._known: set[str] = set()

    def call(self, service: str, method: str, content: dict[str, Any]) -> Any:
        """Call a unary method with a message of this content."""
        self._learn(reflection_pb2.ServerReflectionRequest(file_containing_symbol=service))
        described = self._pool.FindServiceByName(service).methods_by_name[method]
        request = message_factory.GetMessageClass(described.input_type)(**content)
        answer_class = message_factory.GetMessageClass(described.output_type)
        call: Any = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer_class.FromString,
        )
        return call(request, metadata=self._metadata, timeout=20)

    def _learn(self, request: reflection_pb2.ServerReflectionRequest) -> None:
        from google.protobuf.descriptor_pb2 import FileDescriptorProto

        stub = reflection_pb2_grpc.ServerReflectionStub(self._channel)
        for answer in stub.ServerReflectionInfo(iter([request]), metadata=self._metadata, timeout=20):
            for encoded in answer.file_descriptor_response.file_descriptor_proto:
                file = FileDescriptorProto.FromString(encoded)
                if file.name in self._known:
                    continue
                self._known.add(file.name)
                for needed in file.dependency:
                    if needed not in self._known:
                        self._learn(reflection_pb2.ServerReflectionRequest(file_by_filename=needed))
                self._pool.Add(file)


def _put(request: Any, body: bytes) -> None:
    url = urllib.parse.urlsplit(request.url)
    connection = http.client.HTTPConnection(url.netloc, timeout=20)
    connection.request(request.method, f"{url.path}?{url.query}", body=body, headers=dict(request.headers))
    answer = connection.getresponse()
    assert answer.status in (200, 412), answer.read()
    connection.close()


async def test_a_run_submitted_by_a_stranger_ends_with_the_same_record(yard: Yard, clients: Clients) -> None:
    source = (TINY / "count_steps.py").read_bytes()
    blob = hashlib.sha256(source).hexdigest()
    manifest = f"100644 {blob} {len(source)} count_steps.py\n".encode()
    tree = hashlib.sha256(manifest).hexdigest()
    bytes_of = {blob: source, tree: manifest}
    addresses = yard.context["addresses"]

    with (
        grpc.insecure_channel(addresses["artifact"]) as artifact_channel,
        grpc.insecure_channel(addresses["scheduler"]) as scheduler_channel,
    ):
        artifacts = Stranger(artifact_channel, yard.metadata)
        scheduler = Stranger(scheduler_channel, yard.metadata)
        refs = [{"sha256": sha, "size_bytes": len(data)} for sha, data in bytes_of.items()]
        answer = artifacts.call("runyard.artifact.v1.ArtifactService", "FindMissingBlobs", {"blobs": refs})
        for missing in answer.missing:
            _put(missing.put, bytes_of[missing.sha256])
        code = {"tree_sha256": tree, "file_count": 1, "size_bytes": len(source)}
        artifacts.call(
            "runyard.artifact.v1.ArtifactService",
            "RecordCodeSnapshot",
            {"request_id": str(uuid.uuid4()), "code": code},
        )
        spec = {
            "step": "count",
            "command_lines": ["python3 count_steps.py --steps 3 --delay-milliseconds 800"],
            "executor": "EXECUTOR_PROCESS",
            "parameters": [{"name": "steps", "value": {"number_value": 3}}],
            "code": code,
        }
        submitted = scheduler.call(
            "runyard.run.v1.SchedulerService",
            "SubmitRun",
            {"request_id": str(uuid.uuid4()), "project": "strangers", "spec": spec},
        )
    await clients.shown(submitted.run.run_id, submitted.position)
    record = await clients.complete_record(submitted.run.run_id)

    assert list(record.missing) == []
    assert record.complete
    for box in BOXES:
        assert getattr(record, box), box
    assert record.run.number == 1
    assert record.run.submitted_by.startswith("user:")
