"""What the record of an attempt says of its outputs: all of them, or the first by name and a stored list."""

from __future__ import annotations

from collections.abc import Sequence

from runyard.agent.v1.agent_service_pb2 import AttemptFinished
from runyard.run.v1.types_pb2 import OutputFile
from runyard_agent.file_lists import stored_list, unstored_list
from runyard_agent.outputs import OutputsIncomplete, OutputsOf
from runyard_core.errors import RunyardError

RECORD_BYTES_MAX = 890_000
"""Of the outputs that the last report names; the scheduler's log takes no larger event."""

RECORD_BYTES_OF_EACH = 88
"""Besides its path: hash, size, and what a list adds."""


def record_bytes(path: str) -> int:
    """Give what an output takes at most in the record, and in the list."""
    return len(path.encode()) + RECORD_BYTES_OF_EACH


async def put_outputs(finished: AttemptFinished, of: OutputsOf, stored: Sequence[OutputFile]) -> None:
    """Write stored outputs into a last report, given in the order of their names.

    Raises:
        OutputsIncomplete: OUTPUT_UNAVAILABLE, there are too many and their list cannot be stored: the report
            then names the first, and says how many there are.
    """
    room = RECORD_BYTES_MAX
    for file in stored:
        room -= record_bytes(file.path)
        if room < 0:
            break
        finished.outputs.append(file)
    if room >= 0:
        return
    try:
        finished.output_list.CopyFrom(await stored_list(of.artifact_client, stored))
    except RunyardError as error:
        finished.output_list.CopyFrom(unstored_list(stored))
        sentence = f"the list of all {len(stored)} outputs is not stored: {error}"
        of.tell(sentence)
        raise OutputsIncomplete([sentence], list(stored)) from error
    of.tell(
        f"the record names the first {len(finished.outputs)} outputs; the list of all {len(stored)} is stored"
    )
