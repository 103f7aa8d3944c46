"""What this process keeps of runs that name very many files."""

from __future__ import annotations

from dataclasses import replace

from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Input, InputFile, RunSpec, RunState
from runyard.run.v1.types_pb2 import Run as RunDocument
from runyard_scheduler.domain.run_state import Run, evolve, whole_spec
from runyard_scheduler.process.restoring import run_entry

from .large_rows import a_row, held_mebibytes
from .yard import a_spec

FILES = [InputFile(path=f"{number}.jpg", sha256="0" * 64, size_bytes=1) for number in range(6_000)]
DATA = Input(name="data", uris=["dataset://images/v1"], files=FILES)


def a_large_spec(seed: int) -> RunSpec:
    spec = a_spec()
    spec.command_lines.append(f"python train.py --seed {seed}")
    spec.inputs.extend([DATA, Input(name="weights", uris=["datum://a"])])
    return spec


def test_files_of_a_sweep_are_kept_once_and_asked_for_whole() -> None:
    specs = [a_large_spec(seed) for seed in range(2)]
    runs = [evolve(Run(), ev.RunQueued(run_id=f"run-{seed}", spec=spec)) for seed, spec in enumerate(specs)]
    assert runs[0].input_files is runs[1].input_files
    assert [whole_spec(run) for run in runs] == specs
    assert all(run.spec is not None and run.spec.ByteSize() < 1_000 for run in runs)


def test_a_spec_without_files_is_kept_as_it_is() -> None:
    run = evolve(Run(), ev.RunQueued(run_id="run", spec=a_spec()))
    assert (run.spec, run.input_files, whole_spec(run)) == (a_spec(), b"", a_spec())
    assert whole_spec(Run()) is None


def test_a_restart_keeps_nothing_of_what_earlier_attempts_found() -> None:
    document = RunDocument(run_id="run", spec=a_large_spec(0), state=RunState.RUN_STATE_QUEUED)
    for number in range(1, 4):
        document.attempts.add(number=number, inputs=[DATA])
    row = a_row(document)
    entry = run_entry(row, ())
    assert whole_spec(entry.run) == document.spec
    before = held_mebibytes()
    kept = [run_entry(replace(row, run_id=f"run-{number}"), ()) for number in range(30)]
    # As messages one of these documents takes four mebibytes.
    assert held_mebibytes() - before < 40
    assert len(kept) == 30
