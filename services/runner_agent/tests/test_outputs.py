"""Outputs: everything that was left is stored, and nothing else is read."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from runyard.artifact.v1.types_pb2 import Origin
from runyard.run.v1.types_pb2 import OutputFile
from runyard_agent import collecting, live_outputs, output_uploads
from runyard_agent.below import open_below
from runyard_agent.domain.redaction import Redaction
from runyard_agent.domain.safe_paths import relative_path
from runyard_agent.live_outputs import LiveOutputs
from runyard_agent.outputs import OutputsIncomplete, OutputsOf
from runyard_core.errors import InvalidInput, Unavailable

from .store_double import HASTE_TRIES, PART_BYTES, Yard, serving, sha256_of

pytestmark = pytest.mark.system


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with serving(tmp_path) as yard:
        yield yard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


async def collect(yard: Yard, folder: Path, told: list[str] | None = None) -> list[OutputFile]:
    return await collecting.collect(outputs_of(yard, folder, told))


def outputs_of(yard: Yard, folder: Path, told: list[str] | None = None) -> OutputsOf:
    said = told if told is not None else []
    origin = Origin(run_id="run-1", attempt=2, project="vision")
    return OutputsOf(yard.client, folder, origin, folder.parent / "live.jsonl", said.append)


def output(path: str, data: bytes) -> OutputFile:
    return OutputFile(path=path, sha256=sha256_of(data), size_bytes=len(data))


async def test_all_files_are_stored_with_their_origin(yard: Yard, folder: Path) -> None:
    (folder / "a/b").mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"weights")
    (folder / "a/b/log é.txt").write_bytes(b"")

    found = await collect(yard, folder)

    assert found == [output("a/b/log é.txt", b""), output("model.bin", b"weights")]
    assert yard.store.objects[f"/blobs/{sha256_of(b'weights')}"] == b"weights"
    origin = next(origin for origin in yard.catalogue.origins() if origin.path == "model.bin")
    assert (origin.run_id, origin.attempt, origin.project) == ("run-1", 2, "vision")


async def test_a_large_file_goes_in_parts(yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_uploads, "SMALL_BYTES_MAX", PART_BYTES)
    data = os.urandom(PART_BYTES * 3 + 17)
    (folder / "large").write_bytes(data)

    assert await collect(yard, folder) == [output("large", data)]

    assert yard.store.objects[f"/blobs/{sha256_of(data)}"] == data
    assert len(yard.store.parts) == 4


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


def said(yard: Yard) -> dict[str, object]:
    [request] = yard.registry.described
    assert (request.origin.run_id, request.origin.attempt, request.origin.path) == ("run-1", 2, "")
    return {output.path: MessageToDict(output.metadata) for output in request.outputs}


async def test_sidecars_and_lines_describe_outputs_and_are_none(yard: Yard, folder: Path) -> None:
    (folder / "a").mkdir()
    for name in ("a/model.pt", "plain.txt", "both.txt"):
        (folder / name).write_bytes(name.encode())
    (folder / "a/model.pt.metadata.json").write_text('{"valohai.tags": ["good"], "n": 1}', encoding="utf-8")
    (folder / "both.txt.metadata.json").write_text('{"n": 2}', encoding="utf-8")
    lines = [{"file": "both.txt", "metadata": {"n": 1, "of": "lines"}}, {"file": "gone", "metadata": {}}, 5]
    (folder / "valohai.metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    yard.registry.problems.append("no such alias")
    told: list[str] = []

    found = await collect(yard, folder, told)

    assert [file.path for file in found] == ["a/model.pt", "both.txt", "plain.txt"]
    assert said(yard) == {
        "a/model.pt": {"valohai.tags": ["good"], "n": 1.0},
        "both.txt": {"n": 2.0, "of": "lines"},
    }
    assert told == [
        "output 'valohai.metadata.jsonl', line 2: there is no output 'gone'",
        "output 'valohai.metadata.jsonl', line 3: it is no JSON object",
        "no such alias",
    ]


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"x": NaN}', b"\xff", b'{"x": "\\ud800"}', b"[" * 100_000]
)
async def test_a_sidecar_that_cannot_be_read_is_said_and_stored(
    yard: Yard, folder: Path, content: bytes
) -> None:
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "model.pt.metadata.json").write_bytes(content)
    (folder / "alone.metadata.json").write_bytes(b"{}")
    told: list[str] = []

    found = await collect(yard, folder, told)

    assert [file.path for file in found] == ["alone.metadata.json", "model.pt", "model.pt.metadata.json"]
    assert len(told) == 1
    assert "says nothing of 'model.pt'" in told[0]
    assert yard.registry.described == []


async def test_metadata_that_cannot_be_applied_is_an_incomplete_end(yard: Yard, folder: Path) -> None:
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "model.pt.metadata.json").write_bytes(b'{"n": 1}')
    yard.registry.status = grpc.StatusCode.PERMISSION_DENIED

    with pytest.raises(OutputsIncomplete) as error:
        await collect(yard, folder)

    assert [file.path for file in error.value.stored] == ["model.pt"]


async def test_names_of_outputs_and_what_is_said_of_them_hold_no_secret(yard: Yard, folder: Path) -> None:
    word = "xyzzy-plugh"
    of = replace(outputs_of(yard, folder), redaction=Redaction([word]))
    for name in (f"{word}.pt", f"live {word}"):
        (folder / name).write_bytes(name.encode())
        (folder / f"{name}.metadata.json").write_text(json.dumps({"word": word}), encoding="utf-8")
    line = {"file": f"{word}.pt", "metadata": {"n": 1}}
    (folder / "valohai.metadata.jsonl").write_text(json.dumps(line), encoding="utf-8")
    os.chmod(folder / f"live {word}", 0o444)
    stored = asyncio.Event()
    live = replace(of, tell=lambda _: stored.set())
    async with asyncio.timeout(10):
        await LiveOutputs(live).follow(stored)

    found = await collecting.collect(of)

    assert [file.path for file in found] == ["***.pt", "live ***"]
    assert {origin.path for origin in yard.catalogue.origins()} == {"***.pt", "live ***"}
    assert said(yard) == {"***.pt": {"word": "***", "n": 1.0}, "live ***": {"word": "***"}}


async def test_a_file_made_read_only_is_stored_and_removed_while_the_program_runs(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_outputs, "_LOOK_SECONDS", 0.02)
    (folder / "sub").mkdir()
    (folder / "sub/step1.pt").write_bytes(b"one")
    (folder / "sub/step1.pt.metadata.json").write_bytes(b'{"step": 1}')
    (folder / "sub/step1.pt").chmod(0o444)
    (folder / "growing.txt").write_bytes(b"still")
    of, ended = outputs_of(yard, folder), asyncio.Event()

    async with asyncio.TaskGroup() as group:
        group.create_task(LiveOutputs(of).follow(ended))
        async with asyncio.timeout(5):
            await gone(folder / "sub/step1.pt")
            (folder / "sub/step1.pt").write_bytes(b"one again")
            (folder / "sub/step1.pt").chmod(0o400)
            await gone(folder / "sub/step1.pt")
        ended.set()
    # What an agent that died between record and removal finds.
    (folder / "sub/step1.pt").write_bytes(b"one again")
    of.live_file.write_text(of.live_file.read_text(encoding="utf-8") + '\n{"path": "cut', encoding="utf-8")
    found = await collecting.collect(of)

    assert sorted((file.path, file.sha256) for file in found) == sorted(
        (path, sha256_of(data))
        for path, data in (
            ("growing.txt", b"still"),
            ("sub/step1.pt", b"one"),
            ("sub/step1.pt", b"one again"),
        )
    )
    assert said(yard) == {"sub/step1.pt": {"step": 1.0}}


async def gone(path: Path) -> None:
    while path.exists():  # noqa: ASYNC110, ASYNC240 - what is tested brings it about
        await asyncio.sleep(0.01)


async def test_a_live_output_that_cannot_be_stored_stays_for_the_end(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_outputs, "_LOOK_SECONDS", 0.01)
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "model.pt").chmod(0o444)
    yard.catalogue.failures.append(grpc.StatusCode.PERMISSION_DENIED)
    told: list[str] = []
    of, ended = outputs_of(yard, folder, told), asyncio.Event()

    async with asyncio.TaskGroup() as group:
        group.create_task(LiveOutputs(of).follow(ended))
        async with asyncio.timeout(5):
            while not told:  # noqa: ASYNC110 - what is tested brings it about
                await asyncio.sleep(0.01)
        ended.set()

    assert "not stored yet" in told[0]
    assert await collecting.collect(of) == [output("model.pt", b"weights")]
