"""What of a record fits into one answer; outputs, and what earlier attempts found, are left out of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from runyard.artifact.v1.types_pb2 import Artifact
from runyard.metric.v1.metric_service_pb2 import GetRunSummaryResponse
from runyard.record.v1.record_service_pb2 import Record
from runyard.run.v1.types_pb2 import Attempt, Input, Run
from runyard_contracts.answer_size import items_that_fit
from runyard_servicekit.large_runs import fit_run

RECORD_BYTES_MAX = 14 * 1024 * 1024
"""Most that a record takes, but for what is missing of it: a message holds 16 MiB."""
OUTPUTS_BYTES_MIN = 4 * 1024 * 1024
"""Outputs have room for so much, whatever the attempts of the run have found."""
DATASETS_BYTES_MAX = 4 * 1024 * 1024
"""One event names a megabyte of input files; what was fetched on demand comes to it file by file."""
RESULTS_BYTES_MAX = 4 * 1024 * 1024
"""Some 30,000 metrics; their values may be JSON of 16 KiB."""


def found_inputs(attempt: Attempt) -> Iterable[Input]:
    """Give the inputs that an attempt found; of very many files the first."""
    alone = Run(attempts=[Attempt(inputs=attempt.inputs)])
    fit_run(alone, DATASETS_BYTES_MAX)
    return alone.attempts[0].inputs


def add_results(record: Record, summary: GetRunSummaryResponse) -> Iterator[str]:
    """Add the results of a summary to a record, as many as it holds; says when there are more."""
    record.results.extend(items_that_fit(summary.metrics, bytes_max=RESULTS_BYTES_MAX).items)
    if summary.has_more_metrics or len(summary.metrics) > len(record.results):
        who = "QuerySeries has each by its name" if summary.has_more_metrics else "GetRunSummary has all"
        yield f"results: there are more than {len(record.results)}; {who}"


def add_outputs(record: Record, outputs: Sequence[Artifact]) -> None:
    """Add as many of the outputs as there is room for to a record that has everything else."""
    wanted = min(sum(output.ByteSize() for output in outputs), OUTPUTS_BYTES_MIN)
    run_room = RECORD_BYTES_MAX - wanted - (record.ByteSize() - record.run.ByteSize())
    fit_run(record.run, run_room)
    room = RECORD_BYTES_MAX - record.ByteSize()
    record.outputs.extend(items_that_fit(outputs, bytes_max=room).items)


def lacking_files(inputs: Iterable[Input]) -> Iterator[str]:
    """Say of which inputs neither the record nor a stored list names all files."""
    for one in inputs:
        if not one.file_list.sha256 and len(one.files) < one.file_list.file_count:
            yield f"input {one.name}: it names {len(one.files)} of {one.file_list.file_count} files"
