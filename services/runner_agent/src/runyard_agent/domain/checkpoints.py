"""What a new attempt finds of those before it: all that they stored, the newest version of each path."""

from __future__ import annotations

from collections.abc import Iterable

from runyard.artifact.v1.types_pb2 import Artifact
from runyard.run.v1.types_pb2 import Input, InputFile

INPUT_NAME = "runyard-checkpoints"
"""Name of its input. No step may have one of that name: the scheduler keeps "runyard-" for itself."""


def checkpoints_of(run_id: str, attempt: int, artifacts: Iterable[Artifact]) -> Input | None:
    """Give the input of an attempt with what earlier ones stored; None when they stored nothing.

    Of several versions of a path the newest of the latest attempt stays: that one went on from the others.

    Args:
        run_id: the run.
        attempt: the number of the new attempt.
        artifacts: every file that the run has left behind.
    """
    newest: dict[str, tuple[tuple[int, int, int], InputFile]] = {}
    for artifact in artifacts:
        for each in artifact.origins:
            origin, written_at = each.origin, each.written_at
            if origin.run_id != run_id or not 0 < origin.attempt < attempt:
                continue
            age = (origin.attempt, written_at.seconds, written_at.nanos)
            if origin.path in newest and newest[origin.path][0] > age:
                continue
            newest[origin.path] = (
                age,
                InputFile(
                    uri=f"datum://{artifact.sha256}",
                    path=origin.path,
                    sha256=artifact.sha256,
                    size_bytes=artifact.size_bytes,
                ),
            )
    if not newest:
        return None
    files = [file for _, (_, file) in sorted(newest.items())]
    uris = dict.fromkeys(file.uri for file in files)
    return Input(name=INPUT_NAME, uris=uris, keep_directories="full", files=files)
