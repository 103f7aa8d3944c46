from __future__ import annotations

import asyncio
import io
import os
import re
from datetime import UTC, datetime

import grpc
import pytest

from runyard.artifact.v1 import artifact_service_pb2 as pb
from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.run.v1.events_pb2 import RunStarted
from runyard.run.v1.types_pb2 import CodeRef, Input
from runyard_artifact.domain.reference import object_key
from runyard_artifact.read_back import ReadBack
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, Position, Sha256, stream_name
from runyard_contracts.manifest import Entry, Mode, format_manifest
from runyard_eventlog.port import AppendCommand, EventFilter, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog

from .yard import MODEL, Yard, begin, event_types, new_id, reason, send, sha256_of

pytestmark = pytest.mark.engines


async def test_a_file_is_uploaded_committed_and_downloaded(yard: Yard) -> None:
    data = os.urandom(100_000)
    committed = await yard.put(data, MODEL)
    artifact = committed.artifact
    assert (artifact.sha256, artifact.size_bytes, artifact.name) == (sha256_of(data), len(data), "model.pt")
    assert [(origin.origin, origin.written_by) for origin in artifact.origins] == [(MODEL, "user:alice")]
    download = await yard.artifact.GetDownload(pb.GetDownloadRequest(sha256=artifact.sha256))
    assert download.size_bytes == len(data)
    assert send(download.request)[:2] == (200, data)
    read = ReadOptions(min_position=committed.position)
    shown = await yard.artifact.GetArtifact(pb.GetArtifactRequest(name=artifact.sha256[:8], read=read))
    assert shown.artifact == artifact
    assert await event_types(yard) == ["runyard.artifact.upload_begun", "runyard.artifact.written"]


async def test_a_file_of_a_run_follows_from_its_program_and_its_writing_from_its_announcement(
    yard: Yard,
) -> None:
    run_id = new_id()
    context = Context(parse_actor("agent:n1"), correlation_id=run_id, source="/agents/n1")
    stream = stream_name("run", run_id)
    told = [wrap(RunStarted(run_id=run_id, attempt=n), stream, context, datetime.now(UTC)) for n in (1, 2)]
    async with await PostgresEventLog.connect(yard.database.url("scheduler")) as log:
        await log.append(AppendCommand(CommandId(new_id()), [StreamAppend(stream, 0, told)]))
    origin = Origin(path="model.pt", run_id=run_id, attempt=2, project="digits")
    elsewhere = Origin(path="copy.pt", run_id=run_id, attempt=1, project="digits")
    for each in (origin, elsewhere, Origin(path="put.pt")):
        await yard.put(b"model", each)
    async with await PostgresEventLog.connect(yard.database.url("reader")) as log:
        events = (await log.read(Lane.LANE_DOMAIN, after_position=Position(2))).events
    begun, written, copied, put = (event.envelope for event in events)
    assert (begun.causation_id, written.causation_id) == (told[1].event_id, begun.event_id)
    # Its bytes were stored already, so nothing was announced.
    assert copied.causation_id == told[0].event_id
    assert put.causation_id == ""


async def test_an_empty_file_is_a_file(yard: Yard) -> None:
    committed = await yard.put(b"", MODEL)
    assert committed.artifact.size_bytes == 0
    download = await yard.artifact.GetDownload(pb.GetDownloadRequest(sha256=sha256_of(b"")))
    assert send(download.request)[:2] == (200, b"")


async def test_the_store_refuses_wrong_bytes_and_changed_headers(yard: Yard) -> None:
    data = b"right bytes"
    begun = await yard.artifact.BeginUpload(begin(data))
    [part] = begun.parts
    status, body, _ = send(part.request, b"wrong bytes")
    assert (status, b"<Code>BadDigest</Code>" in body) == (400, True)
    for left_out in part.request.headers:
        fewer = {name: value for name, value in part.request.headers.items() if name != left_out}
        assert send(part.request, data, fewer)[0] == 403
    checksum_of_wrong = {**part.request.headers, "x-amz-checksum-sha256": "A" * 43 + "="}
    assert send(part.request, b"wrong bytes", checksum_of_wrong)[0] == 403
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.commit(sha256_of(data), len(data), MODEL)
    assert reason(refused.value) == "OBJECT_MISSING"
    assert send(part.request, data)[0] == 200


async def test_the_store_refuses_a_second_write(yard: Yard) -> None:
    data = b"written once"
    begun = await yard.artifact.BeginUpload(begin(data))
    again = await yard.artifact.BeginUpload(begin(data))
    assert send(begun.parts[0].request, data)[0] == 200
    assert send(begun.parts[0].request, data)[0] == 412
    assert send(again.parts[0].request, data)[0] == 412
    stored = await yard.artifact.BeginUpload(begin(data))
    assert stored.already_stored
    assert not stored.parts
    assert await event_types(yard) == ["runyard.artifact.upload_begun"]


async def test_nobody_can_write_a_longer_life_into_a_request(yard: Yard) -> None:
    begun = await yard.artifact.BeginUpload(begin(b"late"))
    request = begun.parts[0].request
    request.url = re.sub(r"X-Amz-Expires=\d+", "X-Amz-Expires=604800", request.url)
    assert send(request, b"late")[0] == 403


async def test_a_repeated_commit_records_nothing_more(yard: Yard) -> None:
    data = b"once for each origin"
    first = await yard.put(data, MODEL)
    assert await yard.commit(sha256_of(data), len(data), MODEL) == first
    request = pb.CommitUploadRequest(
        request_id=new_id(),
        sha256=sha256_of(data),
        size_bytes=len(data),
        origin=Origin(path="copy.pt", run_id="run-2", attempt=1),
    )
    second = await yard.artifact.CommitUpload(request)
    assert second.position > first.position
    assert [origin.origin.path for origin in second.artifact.origins] == ["model.pt", "copy.pt"]
    assert second.artifact.name == "copy.pt"
    assert await yard.artifact.CommitUpload(request) == second
    request.origin.path = "other.pt"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.artifact.CommitUpload(request)
    assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_concurrent_commits_of_one_file_all_count(yard: Yard) -> None:
    data = b"many at once"
    await yard.put(data, MODEL)
    origins = [Origin(path=f"{number}.pt", run_id=f"run-{number}", attempt=1) for number in range(4)]
    await asyncio.gather(*(yard.commit(sha256_of(data), len(data), origin) for origin in origins))
    types = await event_types(yard)
    assert types.count("runyard.artifact.written") == 5


@pytest.mark.parametrize(
    ("sha256", "size_bytes", "path", "code"),
    [
        ("zz", 1, "a", "BAD_SHA256"),
        ("a" * 64, -1, "a", "BAD_SIZE"),
        ("a" * 64, 1, "../a", "PATH_ESCAPES"),
        ("a" * 64, 1, "/a", "PATH_ESCAPES"),
        ("a" * 64, 1, "a\\b", "PATH_ESCAPES"),
        ("a" * 64, 1, "a\0b", "BAD_PATH"),
        ("a" * 64, 1, "a", "OBJECT_MISSING"),
    ],
)
async def test_a_bad_commit_is_refused_with_its_reason(
    yard: Yard, sha256: str, size_bytes: int, path: str, code: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.commit(sha256, size_bytes, Origin(path=path))
    assert reason(refused.value) == code
    assert await event_types(yard) == []


async def test_a_wrong_size_is_refused(yard: Yard) -> None:
    data = b"nine byte"
    begun = await yard.artifact.BeginUpload(begin(data))
    send(begun.parts[0].request, data)
    for size_bytes in (0, 8, 10):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await yard.commit(sha256_of(data), size_bytes, MODEL)
        assert reason(refused.value) == "SIZE_MISMATCH"
    request = begin(data)
    request.size_bytes = 10
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.artifact.BeginUpload(request)
    assert reason(refused.value) == "SIZE_MISMATCH"


async def test_a_call_without_a_token_is_refused(yard: Yard) -> None:
    async with grpc.aio.insecure_channel(yard.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ArtifactServiceStub(channel).BeginUpload(begin(b"x"))
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_large_file_goes_up_in_parts_and_is_verified(yard: Yard) -> None:
    data = os.urandom(1024) * (65 * 1024)
    begun = await yard.artifact.BeginUpload(begin(data))
    assert len(begun.parts) == 4
    etags = []
    for part in begun.parts:
        status, _, headers = send(part.request, data[part.offset_bytes : part.offset_bytes + part.size_bytes])
        assert status == 200
        etags.append(headers["ETag"].strip('"'))
    with pytest.raises(grpc.aio.AioRpcError) as early:
        await yard.artifact.GetDownload(pb.GetDownloadRequest(sha256=sha256_of(data)))
    assert reason(early.value) == "FILE_NOT_FOUND"
    committed = await yard.commit(
        sha256_of(data), len(data), MODEL, upload_id=begun.upload_id, part_etags=etags
    )
    assert committed.artifact.size_bytes == len(data)
    again = await yard.commit(sha256_of(data), len(data), MODEL, upload_id=begun.upload_id, part_etags=etags)
    assert again == committed
    download = await yard.artifact.GetDownload(pb.GetDownloadRequest(sha256=sha256_of(data)))
    assert sha256_of(send(download.request)[1]) == sha256_of(data)


async def test_a_large_file_goes_up_in_one_request_where_that_is_asked_for(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(1024) * (65 * 1024)
    asked = begin(data)
    asked.in_one_request = True
    begun = await yard.artifact.BeginUpload(asked)
    assert (len(begun.parts), begun.upload_id) == (1, "")
    wrong = bytes([data[0] ^ 1]) + data[1:]
    status, body, _ = send(begun.parts[0].request, wrong)
    assert (status, b"BadDigest" in body) == (400, True)
    assert not (await yard.artifact.BeginUpload(asked)).already_stored

    assert send(begun.parts[0].request, data)[0] == 200
    monkeypatch.setattr(ReadBack, "sha256_of", lambda *_: pytest.fail("the store has checked these bytes"))
    committed = await yard.commit(sha256_of(data), len(data), MODEL)
    assert committed.artifact.size_bytes == len(data)
    download = await yard.artifact.GetDownload(pb.GetDownloadRequest(sha256=sha256_of(data)))
    assert sha256_of(send(download.request)[1]) == sha256_of(data)


async def test_wrong_parts_are_refused_and_removed(yard: Yard) -> None:
    data = os.urandom(1024) * (65 * 1024)
    begun = await yard.artifact.BeginUpload(begin(data))
    etags = []
    for part in begun.parts:
        body = data[part.offset_bytes : part.offset_bytes + part.size_bytes]
        if part.number == 3:
            body = bytes([body[0] ^ 1]) + body[1:]
        etags.append(send(part.request, body)[2]["ETag"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.commit(sha256_of(data), len(data), MODEL, upload_id=begun.upload_id, part_etags=etags)
    assert reason(refused.value) == "CHECKSUM_MISMATCH"
    assert "runyard.artifact.written" not in await event_types(yard)
    assert not (await yard.artifact.BeginUpload(begin(data))).already_stored


async def test_unknown_parts_are_refused(yard: Yard) -> None:
    data = bytes(65 * 1024 * 1024)
    begun = await yard.artifact.BeginUpload(begin(data))
    send(begun.parts[0].request, data[: begun.parts[0].size_bytes])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.commit(
            sha256_of(data), len(data), MODEL, upload_id=begun.upload_id, part_etags=['"0"', '"1"']
        )
    assert reason(refused.value) == "BAD_PARTS"


async def test_a_code_snapshot_needs_every_file(yard: Yard) -> None:
    files = {"train.py": b"print(1)\n", "lib/a.py": b"a = 1\n", "lib/empty.py": b""}
    entries = [Entry(path, Mode.FILE, Sha256(sha256_of(data)), len(data)) for path, data in files.items()]
    manifest = format_manifest(entries)
    blobs = {sha256_of(data): data for data in (*files.values(), manifest)}
    code = CodeRef(tree_sha256=sha256_of(manifest), git_commit="c" * 40, dirty=True)
    wanted = pb.FindMissingBlobsRequest(
        blobs=[pb.BlobRef(sha256=sha256, size_bytes=len(data)) for sha256, data in blobs.items()]
    )
    missing = (await yard.artifact.FindMissingBlobs(wanted)).missing
    assert {blob.sha256 for blob in missing} == set(blobs)
    for blob in missing:
        if blob.sha256 == sha256_of(files["lib/a.py"]):
            continue
        assert send(blob.put, blobs[blob.sha256])[0] == 200
    request = pb.RecordCodeSnapshotRequest(request_id=new_id(), code=code)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.artifact.RecordCodeSnapshot(request)
    assert reason(refused.value) == "OBJECT_MISSING"
    [last] = (await yard.artifact.FindMissingBlobs(wanted)).missing
    assert send(last.put, b"a = 2\n")[0] == 400
    assert send(last.put, blobs[last.sha256])[0] == 200
    recorded = await yard.artifact.RecordCodeSnapshot(request)
    assert await yard.artifact.RecordCodeSnapshot(request) == recorded
    request.request_id = new_id()
    assert await yard.artifact.RecordCodeSnapshot(request) == recorded
    async with await PostgresEventLog.connect(yard.database.url("reader")) as log:
        [event] = (await log.read(Lane.LANE_DOMAIN, filter=EventFilter(categories=["code"]))).events
    assert event.position == Position(recorded.position)
    assert event.envelope.stream == f"code-{code.tree_sha256}"
    expected = CodeRef()
    expected.CopyFrom(code)
    expected.file_count, expected.size_bytes = 3, 15
    assert event.message.code == expected  # type: ignore[attr-defined]


async def test_a_manifest_that_is_none_is_refused(yard: Yard) -> None:
    data = b"not a manifest"
    sha256 = sha256_of(data)
    wanted = pb.FindMissingBlobsRequest(blobs=[pb.BlobRef(sha256=sha256, size_bytes=len(data))])
    [blob] = (await yard.artifact.FindMissingBlobs(wanted)).missing
    send(blob.put, data)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.artifact.RecordCodeSnapshot(
            pb.RecordCodeSnapshotRequest(request_id=new_id(), code=CodeRef(tree_sha256=sha256))
        )
    assert reason(refused.value) == "BAD_MANIFEST"


async def test_inputs_are_resolved_whole_or_by_prefix(yard: Yard) -> None:
    data = b"dataset"
    sha256 = sha256_of(data)
    await yard.put(data, Origin(path="data/digits.csv", run_id="run-1", attempt=1))
    web = "https://example.org/x.csv"
    wanted = [
        Input(name="whole", uris=[f"datum://{sha256}", web]),
        Input(name="prefix", uris=[f"datum://{sha256[:8]}"], keep_directories="full"),
        Input(name="renamed", uris=[f"datum://{sha256[:12]}"], filename="x.csv"),
    ]
    resolved = (await yard.artifact.ResolveInputs(pb.ResolveInputsRequest(inputs=wanted))).inputs
    assert [list(found.uris) for found in resolved] == [list(asked.uris) for asked in wanted]
    files = [file for found in resolved for file in found.files]
    assert [(file.path, file.sha256, file.size_bytes) for file in files] == [
        ("digits.csv", sha256, 7),
        ("data/digits.csv", sha256, 7),
        ("x.csv", sha256, 7),
    ]


@pytest.mark.parametrize(
    ("uri", "code", "reason_code"),
    [
        ("datum://" + "0" * 64, grpc.StatusCode.NOT_FOUND, "DATUM_NOT_FOUND"),
        ("datum://00000000", grpc.StatusCode.NOT_FOUND, "DATUM_NOT_FOUND"),
        ("datum://0000", grpc.StatusCode.INVALID_ARGUMENT, "BAD_DATUM"),
        ("data.csv", grpc.StatusCode.INVALID_ARGUMENT, "BAD_URI"),
    ],
)
async def test_an_input_that_is_not_there_is_named(
    yard: Yard, uri: str, code: grpc.StatusCode, reason_code: str
) -> None:
    request = pb.ResolveInputsRequest(inputs=[Input(name="data", uris=[uri])])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.artifact.ResolveInputs(request)
    assert (refused.value.code(), reason(refused.value)) == (code, reason_code)
    assert uri in str(refused.value.details())


async def test_a_list_shows_one_position_over_all_pages(yard: Yard) -> None:
    committed = [
        await yard.put(f"file {number}".encode(), Origin(path=f"{number}.txt", run_id="run-1", attempt=1))
        for number in range(5)
    ]
    await yard.put(b"pushed", Origin(path="pushed.txt"))
    request = pb.ListArtifactsRequest(
        page_size=2, run_id="run-1", read=ReadOptions(min_position=committed[-1].position)
    )
    names = []
    while True:
        page = await yard.artifact.ListArtifacts(request)
        names += [artifact.name for artifact in page.artifacts]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
        await yard.put(b"between pages", Origin(path=f"{len(names)}.late", run_id="run-1", attempt=1))
    assert names == ["4.txt", "3.txt", "2.txt", "1.txt", "0.txt"]
    then = ReadOptions(as_of=AsOf(position=committed[1].position))
    past = await yard.artifact.ListArtifacts(pb.ListArtifactsRequest(read=then))
    assert [artifact.name for artifact in past.artifacts] == ["1.txt", "0.txt"]
    with pytest.raises(grpc.aio.AioRpcError) as ahead:
        await yard.artifact.ListArtifacts(
            pb.ListArtifactsRequest(read=ReadOptions(as_of=AsOf(position=1_000_000)))
        )
    assert ahead.value.code() == grpc.StatusCode.OUT_OF_RANGE


async def test_bytes_put_there_by_somebody_else_are_found_out(yard: Yard) -> None:
    """Whoever holds the store's key may write anything under a hash; it is never recorded."""
    data = b"what it should be"
    client, bucket = yard.bucket.client, f"{yard.bucket.name}-new"
    client.put_object(bucket, object_key(sha256_of(data)), io.BytesIO(b"what it is not..."), len(data))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.commit(sha256_of(data), len(data), MODEL)
    assert reason(refused.value) == "CHECKSUM_MISMATCH"
    assert list(client.list_objects(bucket, recursive=True)) == []
    assert (await yard.put(data, MODEL)).artifact.sha256 == sha256_of(data)
