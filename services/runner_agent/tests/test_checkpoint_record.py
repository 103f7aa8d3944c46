"""More checkpoints than one event names: all are fetched, the record names the first and the list of all."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from runyard.agent.v1.agent_service_pb2 import AttemptStarted
from runyard.run.v1.types_pb2 import Input
from runyard_agent.checkpoint_record import recorded_inputs
from runyard_agent.domain import inputs_record
from runyard_agent.domain.checkpoints import INPUT_NAME
from runyard_contracts.file_list import parse_file_list
from runyard_core.errors import Unavailable

from .input_folder import fetch, yard
from .store_double import Yard

__all__ = ["yard"]

pytestmark = pytest.mark.system

COUNT = 40


def checkpoints(yard: Yard) -> Input:
    one = Input(name=INPUT_NAME, keep_directories="full")
    for number in range(COUNT):
        # Two of each content: they share an address.
        sha256 = yard.catalogue.push(f"{number}", f"step {number // 2}".encode())
        one.files.add(uri=f"datum://{sha256}", path=f"ckpt/{number:02}.pt", sha256=sha256)
    one.uris.extend(dict.fromkeys(file.uri for file in one.files))
    return one


async def test_more_checkpoints_than_one_record_names_are_fetched_and_listed(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_record, "RECORD_BYTES_MAX", 5_000)
    asked = Input(name="model", uris=[f"datum://{yard.catalogue.push('a.bin', b'weights')}"])

    fetched = await fetch(yard, tmp_path, asked, checkpoints(yard))
    recorded = await recorded_inputs(yard.client, fetched)

    assert (tmp_path / "inputs" / INPUT_NAME / "ckpt/39.pt").read_bytes() == b"step 19"
    assert [len(one.files) for one in fetched] == [1, COUNT]
    assert recorded[0] == fetched[0]
    first = recorded[1]
    assert 10 < len(first.files) < COUNT
    assert list(first.files) == fetched[1].files[: len(first.files)]
    assert list(first.uris) == list(dict.fromkeys(file.uri for file in first.files))
    assert 4_500 < AttemptStarted(inputs=recorded).ByteSize() <= 5_000
    assert (first.file_list.file_count, first.file_list.size_bytes) == (
        COUNT,
        sum(file.size_bytes for file in fetched[1].files),
    )
    listed = parse_file_list(yard.store.objects[f"/blobs/{first.file_list.sha256}"])
    assert [(file.path, file.sha256) for file in listed] == [
        (file.path, file.sha256) for file in fetched[1].files
    ]


async def test_checkpoints_that_one_record_names_are_recorded_as_they_are(yard: Yard, tmp_path: Path) -> None:
    fetched = await fetch(yard, tmp_path, checkpoints(yard))
    assert await recorded_inputs(yard.client, fetched) == fetched
    assert not fetched[0].HasField("file_list")


async def test_checkpoints_whose_list_cannot_be_stored_are_an_input_that_cannot_be_had(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_record, "RECORD_BYTES_MAX", 5_000)
    fetched = await fetch(yard, tmp_path, checkpoints(yard))
    yard.catalogue.failures.append(grpc.StatusCode.PERMISSION_DENIED)

    with pytest.raises(Unavailable, match=f"the list of its {COUNT} files is not stored: told to") as error:
        await recorded_inputs(yard.client, fetched)

    assert error.value.code == "INPUT_UNAVAILABLE"
