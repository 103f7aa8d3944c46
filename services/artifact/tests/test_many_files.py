"""Many small files in one call: each is judged by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import grpc
import pytest

from runyard.artifact.v1 import artifact_service_pb2 as pb
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.read_pb2 import ReadOptions

from .yard import MODEL, Yard, begin, event_types, new_id, reason, send, sha256_of

pytestmark = pytest.mark.engines


def together(contents: Mapping[str, bytes]) -> tuple[Origin, list[pb.FileOfMany]]:
    """Files of one attempt: their shared origin, and each with its path."""
    files = [
        pb.FileOfMany(path=path, sha256=sha256_of(data), size_bytes=len(data))
        for path, data in contents.items()
    ]
    return Origin(run_id="run-1", attempt=1, project="digits"), files


async def test_many_files_are_stored_together(yard: Yard) -> None:
    await yard.put(b"known", MODEL)
    contents = {"a/1": b"one", "a/2": b"two", "same": b"one", "known": b"known", "empty": b""}
    origin, files = together(contents)

    begin_all = pb.BeginUploadsRequest(request_id=new_id(), origin=origin, files=files)
    puts = (await yard.artifact.BeginUploads(begin_all)).puts
    # What the log has is not sent; the same bytes twice go up once.
    assert [bool(put.url) for put in puts] == [True, True, True, False, True]
    sent = [send(put, contents[file.path])[0] for file, put in zip(files, puts, strict=True) if put.url]
    assert sent == [200, 200, 412, 200]
    commit_all = pb.CommitUploadsRequest(request_id=new_id(), origin=origin, files=files)
    first = await yard.artifact.CommitUploads(commit_all)
    assert list(first.refusals) == [""] * 5
    again = pb.CommitUploadsRequest(request_id=new_id(), origin=origin, files=files)
    # Whoever asks again may wait for what the first one made.
    assert await yard.artifact.CommitUploads(again) == first

    read = ReadOptions(min_position=first.position)
    listed = await yard.artifact.ListArtifacts(pb.ListArtifactsRequest(run_id="run-1", read=read))
    found = {
        (each.origin.path, artifact.sha256) for artifact in listed.artifacts for each in artifact.origins
    }
    assert found == {(path, sha256_of(data)) for path, data in [*contents.items(), ("model.pt", b"known")]}
    counts = Counter(await event_types(yard))
    assert counts == {"runyard.artifact.upload_begun": 4, "runyard.artifact.written": 6}


async def test_bytes_that_are_left_again_after_others_are_the_newest_of_their_path(yard: Yard) -> None:
    for version, data in enumerate((b"one", b"two", b"one")):
        origin, files = together({"model.pt": data})
        files[0].versions_before = version
        begin_all = pb.BeginUploadsRequest(request_id=new_id(), origin=origin, files=files)
        for put in (await yard.artifact.BeginUploads(begin_all)).puts:
            assert not put.url or send(put, data)[0] == 200
        for _ in range(2):
            # Whoever repeats it under a new id records nothing more.
            request = pb.CommitUploadsRequest(request_id=new_id(), origin=origin, files=files)
            position = (await yard.artifact.CommitUploads(request)).position
    assert (await event_types(yard)).count("runyard.artifact.written") == 3

    read = ReadOptions(min_position=position)
    listed = await yard.artifact.ListArtifacts(pb.ListArtifactsRequest(run_id="run-1", read=read))
    assert [artifact.sha256 for artifact in listed.artifacts] == [sha256_of(b"one"), sha256_of(b"two")]
    newest, older = ([each.written_at.ToDatetime() for each in one.origins] for one in listed.artifacts)
    # Its place is told once, as of the last time.
    assert len(newest) == len(older) == 1
    assert newest > older
    found = await yard.artifact.GetArtifact(pb.GetArtifactRequest(name=sha256_of(b"one"), read=read))
    again = await yard.commit(sha256_of(b"one"), 3, found.artifact.origins[0].origin)
    assert again.artifact == found.artifact


async def test_many_downloads_are_of_files_that_were_written(yard: Yard) -> None:
    await yard.put(b"known", MODEL)
    await yard.artifact.BeginUpload(begin(b"announced"))
    wanted = [sha256_of(data) for data in (b"announced", b"known", b"never heard of")]

    answer = await yard.artifact.GetDownloads(pb.GetDownloadsRequest(sha256s=wanted))

    assert [bool(request.url) for request in answer.requests] == [False, True, False]
    assert send(answer.requests[1])[:2] == (200, b"known")


async def test_a_file_that_is_not_right_holds_up_no_other_of_many(yard: Yard) -> None:
    contents = {"good": b"good", "missing": b"never sent"}
    origin, files = together(contents)
    puts = (
        await yard.artifact.BeginUploads(
            pb.BeginUploadsRequest(request_id=new_id(), origin=origin, files=files)
        )
    ).puts
    assert send(puts[1], b"other bytes")[0] == 400
    assert send(puts[0], b"good")[0] == 200
    files.append(pb.FileOfMany(path="shorter", sha256=sha256_of(b"good"), size_bytes=3))

    answer = await yard.artifact.CommitUploads(
        pb.CommitUploadsRequest(request_id=new_id(), origin=origin, files=files)
    )

    assert list(answer.refusals) == ["", "OBJECT_MISSING", "SIZE_MISMATCH"]
    assert await event_types(yard) == ["runyard.artifact.upload_begun"] * 2 + ["runyard.artifact.written"]


async def test_a_file_in_parts_does_not_go_with_many(yard: Yard) -> None:
    origin, files = together({"large": b"x"})
    files[0].size_bytes = 64 * 1024 * 1024 + 1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.artifact.BeginUploads(
            pb.BeginUploadsRequest(request_id=new_id(), origin=origin, files=files)
        )
    assert reason(refused.value) == "FILE_TOO_LARGE"
