from __future__ import annotations

import pytest

from runyard.run.v1.types_pb2 import Attempt, Environment, FileList, Input, InputFile, Package, Run, RunSpec
from runyard_contracts.answer_size import ANSWER_BYTES_MAX
from runyard_servicekit.large_runs import fit_run

FILES = [InputFile(path=f"{number}.jpg", sha256="0" * 64, size_bytes=3) for number in range(100)]
ENVIRONMENT = Environment(packages=[Package(name="numpy", version="2.0")] * 100)


def a_run(attempt_count: int = 3) -> Run:
    data = Input(name="data", files=FILES)
    attempts = [
        Attempt(number=number, inputs=[data], environment=ENVIRONMENT)
        for number in range(1, attempt_count + 1)
    ]
    return Run(run_id="r", spec=RunSpec(step="train", inputs=[data]), attempts=attempts)


def test_a_run_that_fits_is_left_as_it_is() -> None:
    run = a_run()
    fit_run(run)
    assert run == a_run()
    fit_run(run, run.ByteSize())
    assert run == a_run()
    assert run.ByteSize() < ANSWER_BYTES_MAX


@pytest.mark.parametrize("share", [0.99, 0.8, 0.6, 0.5, 0.4, 0.3])
def test_a_run_is_made_as_small_as_is_asked_for(share: float) -> None:
    run = a_run()
    bytes_max = int(share * run.ByteSize())
    fit_run(run, bytes_max)
    assert run.ByteSize() <= bytes_max
    assert run.spec == a_run().spec
    assert [attempt.number for attempt in run.attempts] == [1, 2, 3]


def test_files_of_earlier_attempts_go_first_and_are_counted() -> None:
    run = a_run()
    fit_run(run, run.ByteSize() - FILES[0].ByteSize())
    cut, *others = (attempt.inputs[0] for attempt in run.attempts)
    assert 0 < len(cut.files) < len(FILES)
    assert list(cut.files) == FILES[: len(cut.files)]
    assert cut.file_list == FileList(file_count=100, size_bytes=300)
    assert all(list(each.files) == FILES and not each.HasField("file_list") for each in others)
    assert all(attempt.environment == ENVIRONMENT for attempt in run.attempts)


def test_then_go_environments_of_earlier_attempts_and_last_the_files_of_the_last() -> None:
    run = a_run()
    files = 2 * run.attempts[0].inputs[0].ByteSize()
    fit_run(run, run.ByteSize() - files)
    first, second, last = run.attempts
    assert not first.inputs[0].files
    assert not second.inputs[0].files
    assert (first.HasField("environment"), second.HasField("environment")) == (False, True)
    assert list(last.inputs[0].files) == FILES

    fit_run(run, run.spec.ByteSize() + ENVIRONMENT.ByteSize() + 1_000)
    assert not second.HasField("environment")
    assert last.environment == ENVIRONMENT
    assert 0 < len(last.inputs[0].files) < len(FILES)


def test_the_stored_list_of_all_files_stays_what_it_was() -> None:
    run = a_run(1)
    listed = FileList(sha256="1" * 64, file_count=5_000, size_bytes=7)
    run.attempts[0].inputs[0].file_list.CopyFrom(listed)
    fit_run(run, run.spec.ByteSize())
    assert not run.attempts[0].inputs[0].files
    assert run.attempts[0].inputs[0].file_list == listed
