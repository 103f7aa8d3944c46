"""Table ``run_part``: what may be large in a run, once, at the event that told it.

A run goes through thousands of events, and nearly none of them changes what was asked for or what an attempt
found. So the rows of runs are written without all that, and it is put back for who wants to see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from runyard.run.v1.types_pb2 import Attempt, Input, InputFile, Run
from runyard_core.projection import TableSpec

PARTED = frozenset({"spec", "attempts"})
"""Fields of a run that have parts."""
_OF_SPEC = ("command_lines", "parameters", "inputs", "environment_variables", "mounts")
_OF_ATTEMPT = ("environment", "hardware", "outputs")
_OF_INPUT = ("uris", "filename", "keep_directories", "files", "on_demand", "file_list")


@dataclass(frozen=True, slots=True)
class RunPartRow:
    """What one event added to a run."""

    run_id: str
    version: int
    """Version of the run's stream: parts are put back in its order."""
    position: int
    document: bytes
    """Serialised ``runyard.run.v1.Run`` that has nothing else."""


RUN_PARTS = TableSpec(name="run_part", row_class=RunPartRow, key=("run_id", "version"), is_read=False)


def take_part(run: Run) -> Run:
    """Take out of a run what may be large; it is changed in place, and only names its inputs then."""
    part = Run()
    _move(run.spec, part.spec, _OF_SPEC)
    for attempt in run.attempts:
        of_attempt = Attempt()
        _move(attempt, of_attempt, _OF_ATTEMPT)
        inputs = [Input() for _ in attempt.inputs]
        for one, of_input in zip(attempt.inputs, inputs, strict=True):
            _move(one, of_input, _OF_INPUT)
        if any(of_input.ByteSize() for of_input in inputs):
            of_attempt.inputs.extend(inputs)
        if of_attempt.ListFields():
            of_attempt.number = attempt.number
            part.attempts.append(of_attempt)
    return part


def whole_run(document: bytes, parts: Iterable[bytes]) -> Run:
    """Give a run with its parts, which are in the order of their versions."""
    run = Run.FromString(document)
    attempts = {attempt.number: attempt for attempt in run.attempts}
    files = _Files()
    for part in map(Run.FromString, parts):
        if part.HasField("spec"):
            run.spec.MergeFrom(part.spec)
        for found in part.attempts:
            attempt = attempts[found.number]
            for name in ("environment", "hardware"):
                if found.HasField(name):
                    getattr(attempt, name).CopyFrom(getattr(found, name))
            attempt.outputs.extend(found.outputs)
            for index, one in enumerate(found.inputs):
                files.put(attempt, index, one)
    return run


class _Files:
    """Puts the files of inputs back: those listed at the start, then each that was fetched on demand."""

    def __init__(self) -> None:
        self._by_path: dict[tuple[int, int], dict[str, InputFile]] = {}

    def put(self, attempt: Attempt, index: int, part: Input) -> None:
        one = attempt.inputs[index]
        if not one.files:
            one.MergeFrom(part)
            return
        # Thousands may be fetched one by one. Of several with one path the first counts.
        place = (attempt.number, index)
        if place not in self._by_path:
            self._by_path[place] = {file.path: file for file in reversed(one.files)}
        by_path = self._by_path[place]
        for file in part.files:
            if file.path not in by_path:
                by_path[file.path] = one.files.add()
            by_path[file.path].CopyFrom(file)


def _move(source: Message, target: Message, names: Sequence[str]) -> None:
    wanted = [field.name for field, _ in source.ListFields() if field.name in names]
    for name in wanted:
        value = getattr(source, name)
        if isinstance(value, str | bool):
            setattr(target, name, value)
        else:
            getattr(target, name).MergeFrom(value)
            if isinstance(value, Message):
                # An empty one is there, too.
                getattr(target, name).SetInParent()
        source.ClearField(name)
