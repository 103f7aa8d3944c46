"""Outputs: everything that was left is stored, and nothing else is read."""

from __future__ import annotations

import os
import socket
from pathlib import Path, PurePosixPath

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.artifact.v1.types_pb2 import Origin
from runyard_agent import artifact_client, output_uploads
from runyard_agent.below import open_below
from runyard_agent.domain.safe_paths import relative_path
from runyard_agent.outputs import OutputsIncomplete
from runyard_core.errors import InvalidInput, Unavailable

from .output_folder import collect, folder, output, yard
from .store_double import HASTE_TRIES, PART_BYTES, Yard, sha256_of

__all__ = ["folder", "yard"]

pytestmark = pytest.mark.system


async def test_all_files_are_stored_with_their_origin(yard: Yard, folder: Path) -> None:
    (folder / "a/b").mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"weights")
    (folder / "a/b/log é.txt").write_bytes(b"")

    found = await collect(yard, folder)

    assert found == [output("a/b/log é.txt", b""), output("model.bin", b"weights")]
    assert yard.store.objects[f"/blobs/{sha256_of(b'weights')}"] == b"weights"
    origin = next(origin for origin in yard.catalogue.origins() if origin.path == "model.bin")
    assert (origin.run_id, origin.attempt, origin.project) == ("run-1", 2, "vision")


@pytest.fixture
def large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Give the content of a file of the folder that is as good as larger than 64 MiB."""
    monkeypatch.setattr(output_uploads, "SMALL_BYTES_MAX", PART_BYTES)
    monkeypatch.setattr(artifact_client, "_SENT_AGAIN_BYTES_MAX", PART_BYTES)
    data = os.urandom(PART_BYTES * 3 + 17)
    (folder / "large").write_bytes(data)
    return data


async def test_a_large_file_goes_in_one_request(yard: Yard, folder: Path, large: bytes) -> None:
    assert await collect(yard, folder) == [output("large", large)]

    assert yard.store.objects[f"/blobs/{sha256_of(large)}"] == large
    assert [method for method, _, _ in yard.store.requests] == ["PUT"]


@pytest.mark.parametrize("status", [413, 503])
async def test_a_large_file_that_does_not_go_in_one_request_goes_in_parts(
    yard: Yard, folder: Path, large: bytes, status: int
) -> None:
    yard.store.statuses = [status]

    assert await collect(yard, folder) == [output("large", large)]

    assert yard.store.objects[f"/blobs/{sha256_of(large)}"] == large
    assert len(yard.store.parts) == 4
    assert [request.in_one_request for request in yard.catalogue.begun] == [True, False]


async def test_a_large_file_that_changed_is_hashed_again_before_it_is_sent_again(
    yard: Yard, folder: Path, large: bytes
) -> None:
    yard.store.statuses = [400]

    assert await collect(yard, folder) == [output("large", large)]

    assert yard.store.parts == {}
    assert [request.in_one_request for request in yard.catalogue.begun] == [True, True]


async def test_small_files_share_the_calls_that_announce_and_record_them(yard: Yard, folder: Path) -> None:
    contents = {f"{number:02}": f"content {number % 30}".encode() for number in range(40)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)

    assert await collect(yard, folder) == [output(name, content) for name, content in contents.items()]

    assert yard.catalogue.begun == []
    assert {origin.path for origin in yard.catalogue.origins()} == set(contents)
    assert len(yard.store.objects) == 30


async def test_a_file_that_is_refused_among_others_is_stored_by_itself(yard: Yard, folder: Path) -> None:
    for name in ("good", "odd"):
        (folder / name).write_bytes(name.encode())
    yard.catalogue.refusals = {"odd": "CHECKSUM_MISMATCH"}

    assert await collect(yard, folder) == [output("good", b"good"), output("odd", b"odd")]

    assert [request.origin.path for request in yard.catalogue.begun] == ["odd"]
    assert [request.origin.path for request in yard.catalogue.committed.values()] == ["odd"]


async def test_an_older_service_gets_every_file_by_itself(yard: Yard, folder: Path) -> None:
    (folder / "one").write_bytes(b"1")
    yard.catalogue.is_old = True

    assert await collect(yard, folder) == [output("one", b"1")]

    assert [request.origin.path for request in yard.catalogue.committed.values()] == ["one"]


async def test_collecting_again_sends_no_bytes_and_commits_the_same(yard: Yard, folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"weights")
    first = await collect(yard, folder)
    sent_count, committed = len(yard.store.requests), set(yard.catalogue.committed)

    assert await collect(yard, folder) == first

    assert len(yard.store.requests) == sent_count
    assert set(yard.catalogue.committed) == committed


async def test_services_that_are_away_for_a_moment_cost_no_output(yard: Yard, folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"weights")
    yard.catalogue.failures = [grpc.StatusCode.UNAVAILABLE] * 3
    yard.store.statuses = [403, 500, 503]

    assert await collect(yard, folder) == [output("model.bin", b"weights")]


async def test_a_file_that_somebody_else_has_just_stored_is_committed(yard: Yard, folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"weights")
    yard.store.is_racing = True

    assert await collect(yard, folder) == [output("model.bin", b"weights")]


async def test_symlinks_to_files_inside_are_stored_as_those_files(yard: Yard, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/epoch-9.bin").write_bytes(b"weights")
    (folder / "latest.bin").symlink_to("sub/epoch-9.bin")
    (folder / "seen-from-inside.bin").symlink_to("/valohai/outputs/sub/epoch-9.bin")
    (folder / "folder").symlink_to("sub")
    told: list[str] = []

    found = await collect(yard, folder, told)

    assert [file.path for file in found] == ["latest.bin", "seen-from-inside.bin", "sub/epoch-9.bin"]
    assert len({file.sha256 for file in found}) == 1
    assert told == ["output 'folder' is skipped: it is a symlink to a folder of the outputs"]


async def test_symlinks_out_of_the_folder_are_refused_and_the_rest_is_stored(
    yard: Yard, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "good").write_bytes(b"good")
    (folder / "bad").symlink_to(tmp_path / "secret")
    (folder / "worse").symlink_to("../secret")
    (folder / "dangling").symlink_to("missing")

    with pytest.raises(OutputsIncomplete, match=r"symlink to '\.\./secret', outside") as error:
        await collect(yard, folder)

    assert error.value.code == "OUTPUT_UNAVAILABLE"
    assert error.value.stored == [output("good", b"good")]
    assert len(error.value.reasons) == 3
    assert b"secret" not in yard.store.objects.values()


async def test_things_without_bytes_are_skipped_with_a_sentence(yard: Yard, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(folder, os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{here}/socket")
    told: list[str] = []

    assert await collect(yard, folder, told) == []

    assert told == [
        "output 'pipe' is skipped: it is a named pipe",
        "output 'socket' is skipped: it is a socket",
    ]
    listener.close()
    os.close(here)


async def test_a_name_that_is_not_text_is_refused(yard: Yard, folder: Path) -> None:
    (folder / os.fsdecode(b"bad\xff")).write_bytes(b"x")
    (folder / "good").write_bytes(b"good")

    with pytest.raises(OutputsIncomplete, match="not valid UTF-8") as error:
        await collect(yard, folder)
    assert error.value.stored == [output("good", b"good")]


async def test_a_file_that_is_swapped_for_a_symlink_meanwhile_is_not_followed(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "sub").mkdir()
    (folder / "file").symlink_to(tmp_path / "secret")
    (folder / "link").symlink_to(tmp_path)

    for path in ("file", "link/secret"):
        with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
            open_below(folder, PurePosixPath(path))
    with pytest.raises(OSError, match="not a file any more"):
        open_below(folder, PurePosixPath("sub"))


async def test_a_missing_folder_has_no_outputs(yard: Yard, tmp_path: Path) -> None:
    assert await collect(yard, tmp_path / "missing") == []


async def test_a_store_that_refuses_is_named_and_the_rest_is_stored(yard: Yard, folder: Path) -> None:
    (folder / "one").write_bytes(b"one")
    # Together with others, by itself, and once more.
    yard.store.statuses = [400, 400, 400]

    with pytest.raises(OutputsIncomplete, match=r"'one' is not stored.*400"):
        await collect(yard, folder)


async def test_a_store_that_is_down_for_longer_than_a_transfer_tries_costs_no_output(
    yard: Yard, folder: Path
) -> None:
    (folder / "one").write_bytes(b"one")
    yard.store.statuses = [503] * 3 * HASTE_TRIES

    assert await collect(yard, folder) == [output("one", b"one")]


async def test_patience_begins_with_the_failure_however_long_was_sent_before(
    yard: Yard, folder: Path
) -> None:
    (folder / "large.bin").write_bytes(b"data")
    # As after an upload that took longer than all patience.
    yard.client._patience_seconds = 0.0
    yard.store.statuses = [503] * HASTE_TRIES
    with (folder / "large.bin").open("rb") as file:
        sha256, origin = sha256_of(b"data"), Origin(run_id="run-1", attempt=1, path="large.bin")
        await yard.client.upload(file.fileno(), sha256=sha256, size_bytes=4, origin=origin)
        assert yard.store.objects[f"/blobs/{sha256}"] == b"data"

        yard.store.statuses = [503] * 3 * HASTE_TRIES
        yard.store.objects.clear()
        with pytest.raises(Unavailable, match="503"):
            await yard.client.upload(file.fileno(), sha256=sha256, size_bytes=4, origin=origin)


async def test_the_service_gets_the_time_to_read_a_large_file_back(yard: Yard, folder: Path) -> None:
    (folder / "large.bin").write_bytes(b"data")
    sha256, origin = sha256_of(b"data"), Origin(run_id="run-1", attempt=1, path="large.bin")
    yard.store.objects[f"/blobs/{sha256}"] = b"data"
    with (folder / "large.bin").open("rb") as file:
        for gibibytes in (0, 100):
            size_bytes = gibibytes << 30
            await yard.client.upload(file.fileno(), sha256=sha256, size_bytes=size_bytes, origin=origin)

    small, large = yard.catalogue.seconds_given
    assert small < 25
    # It asks for 10 s and 1 s more for each 100 MB, and reads for two at once.
    assert large > 4 * (10 + (100 << 30) / 100e6)


async def test_a_service_that_stays_away_ends_the_patience(folder: Path, yard: Yard) -> None:
    (folder / "one").write_bytes(b"one")
    yard.client._patience_seconds = 0.05
    yard.catalogue.failures = [grpc.StatusCode.UNAVAILABLE] * 1000

    with pytest.raises(Unavailable, match=r"gave no answer for 0\.05 s"):
        await collect(yard, folder)


@given(st.text(alphabet=st.sampled_from("ab./\0é\\ "), max_size=12))
def test_a_relative_path_never_leaves_its_folder(text: str) -> None:
    try:
        path = relative_path(text)
    except InvalidInput:
        return
    joined = os.path.normpath(os.path.join("/folder", path))
    assert joined.startswith("/folder/")
    assert str(path) == text
