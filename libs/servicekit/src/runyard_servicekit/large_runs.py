"""What is left out of a run that alone is larger than an answer: what its attempts found, from the first on.

Each attempt may name a megabyte of files, and of packages. The log keeps all of it.
"""

from __future__ import annotations

from runyard.run.v1.types_pb2 import Attempt, Run
from runyard_contracts.answer_size import ANSWER_BYTES_MAX

_COUNT_BYTES = 32
"""What the number and size of an input's files take, at most."""


def fit_run(run: Run, bytes_max: int = ANSWER_BYTES_MAX) -> None:
    """Leave out of a run what makes it too large; it is changed in place.

    First go the input files of earlier attempts, then their environments, then input files of the last one,
    each from the end. Where files are left out, the input's ``file_list`` says how many there are.
    """
    excess = run.ByteSize() - bytes_max
    earlier, last = run.attempts[:-1], run.attempts[-1:]
    for attempt in earlier:
        excess -= _leave_files_out(attempt, excess)
    for attempt in earlier:
        if excess > 0:
            excess -= attempt.environment.ByteSize()
            attempt.ClearField("environment")
    for attempt in last:
        excess -= _leave_files_out(attempt, excess)


def _leave_files_out(attempt: Attempt, excess: int) -> int:
    """Leave out input files until an attempt is smaller by so much; gives by how much it is at least."""
    saved = 0
    for one in reversed(attempt.inputs):
        kept = len(one.files)
        if saved >= excess or not kept:
            continue
        size_bytes = sum(file.size_bytes for file in one.files)
        saved -= _COUNT_BYTES
        while kept and saved < excess:
            kept -= 1
            saved += one.files[kept].ByteSize()
        if not one.HasField("file_list"):
            one.file_list.file_count, one.file_list.size_bytes = len(one.files), size_bytes
        del one.files[kept:]
    return saved
