"""More outputs than one event names: all are stored, the record names the first and the list of all."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from runyard.agent.v1.agent_service_pb2 import AttemptFinished
from runyard.run.v1.types_pb2 import FileList
from runyard_agent import collecting, output_record
from runyard_agent.live_outputs import LiveOutput, _remember
from runyard_agent.output_record import put_outputs
from runyard_agent.outputs import OutputsIncomplete
from runyard_contracts.file_list import ListedFile, parse_file_list

from .output_folder import folder, output, outputs_of, yard
from .store_double import Yard, sha256_of

__all__ = ["folder", "yard"]

pytestmark = pytest.mark.system


async def test_files_left_at_the_end_are_stored_however_many_were_while_the_program_ran(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_record, "RECORD_BYTES_MAX", 1000)
    told: list[str] = []
    of = outputs_of(yard, folder, told)
    live = [output(f"{number:02}", b"%d" % number) for number in range(30)]
    for file in live:
        _remember(of, LiveOutput(file, Struct()))
    (folder / "model\n.pt").write_bytes(b"weights")

    stored, finished = await collecting.collect(of), AttemptFinished()
    await put_outputs(finished, of, stored)

    assert stored == [*live, model := output("model\n.pt", b"weights")]
    assert list(finished.outputs) == live[:11]
    assert sum(file.ByteSize() + 4 for file in finished.outputs) <= 1000
    listed = finished.output_list
    assert (listed.file_count, listed.size_bytes) == (31, sum(file.size_bytes for file in stored))
    content = yard.store.objects[f"/blobs/{listed.sha256}"]
    assert sha256_of(content) == listed.sha256
    assert content.decode().splitlines()[-1] == f"{model.sha256} 7 model\\n.pt"
    assert parse_file_list(content) == [
        ListedFile(file.path, file.sha256, file.size_bytes) for file in stored
    ]
    assert told == ["the record names the first 11 outputs; the list of all 31 is stored"]


async def test_a_list_that_cannot_be_stored_leaves_the_first_outputs_and_the_count_in_the_record(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_record, "RECORD_BYTES_MAX", 300)
    yard.catalogue.failures.append(grpc.StatusCode.PERMISSION_DENIED)
    finished, stored = AttemptFinished(), [output(f"{number:02}", b"x") for number in range(5)]

    with pytest.raises(OutputsIncomplete, match=r"list of all 5 outputs is not stored: .*told") as error:
        await put_outputs(finished, outputs_of(yard, folder), stored)

    assert error.value.stored == stored
    assert list(finished.outputs) == stored[:3]
    assert finished.output_list == FileList(file_count=5, size_bytes=5)
