from __future__ import annotations

from runyard.artifact.v1.types_pb2 import Artifact
from runyard.record.v1.record_service_pb2 import Record
from runyard.run.v1.types_pb2 import Attempt, FileList, Input, InputFile, Run
from runyard_lineage.record_size import OUTPUTS_BYTES_MIN, RECORD_BYTES_MAX, add_outputs, lacking_files

FILE = InputFile(uri="datum://a", path="000001.jpg", sha256="0" * 64, size_bytes=1)


def a_record(file_count: int) -> Record:
    """A record of a run with one attempt, whose input files it holds twice."""
    found = Input(name="data", files=[FILE] * file_count)
    return Record(run=Run(attempts=[Attempt(number=1, inputs=[found])]), datasets=[found])


def test_all_outputs_of_a_small_record_are_in_it() -> None:
    outputs = [Artifact(name=f"{number}") for number in range(100)]
    record = a_record(10)
    add_outputs(record, outputs)
    assert list(record.outputs) == outputs
    record.ClearField("outputs")
    assert record == a_record(10)


def test_what_a_record_holds_twice_gives_way_to_outputs() -> None:
    record = a_record(90_000)
    assert record.datasets[0].ByteSize() < RECORD_BYTES_MAX - OUTPUTS_BYTES_MIN
    assert record.ByteSize() > RECORD_BYTES_MAX
    outputs = [Artifact(name="x" * 1_000)] * 10_000
    add_outputs(record, outputs)
    assert record.ByteSize() <= RECORD_BYTES_MAX
    assert sum(output.ByteSize() for output in record.outputs) > OUTPUTS_BYTES_MIN - 100_000
    assert len(record.datasets[0].files) == 90_000
    assert record.run.attempts[0].inputs[0].file_list.file_count == 90_000


def test_inputs_whose_files_nobody_names_are_told() -> None:
    whole = Input(name="whole", files=[FILE])
    stored = Input(name="stored", file_list=FileList(file_count=2, sha256="1" * 64))
    cut = Input(name="cut", files=[FILE], file_list=FileList(file_count=3))
    assert list(lacking_files([whole, stored, cut])) == ["input cut: it names 1 of 3 files"]
