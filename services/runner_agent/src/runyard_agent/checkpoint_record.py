"""What the record of a start says of inputs: all files, but of very many checkpoints the first and a list.

A step names its own files, so those have room, or are refused before any is fetched. Checkpoints are whatever
earlier attempts of the run stored: nobody may be kept from going on because they were many.
"""

from __future__ import annotations

from collections.abc import Sequence

from runyard.run.v1.types_pb2 import FileList, Input
from runyard_agent.artifact_client import ArtifactClient
from runyard_agent.domain.checkpoints import INPUT_NAME
from runyard_agent.domain.inputs_record import first_files, has_room
from runyard_agent.file_lists import stored_list
from runyard_agent.inputs import unavailable
from runyard_core.errors import RunyardError, Unavailable


async def recorded_inputs(artifact_client: ArtifactClient, fetched: Sequence[Input]) -> list[Input]:
    """Give fetched inputs as one event names them.

    Raises:
        Unavailable: INPUT_UNAVAILABLE, the list of checkpoints that it cannot name is not stored.
    """
    if has_room(fetched):
        return list(fetched)
    others = [one for one in fetched if one.name != INPUT_NAME]
    return [
        first_files(one, others, await _listed(artifact_client, one)) if one.name == INPUT_NAME else one
        for one in fetched
    ]


async def _listed(artifact_client: ArtifactClient, one: Input) -> FileList:
    try:
        return await stored_list(artifact_client, one.files)
    except RunyardError as error:
        reason = Unavailable(f"the list of its {len(one.files)} files is not stored: {error}")
        raise unavailable(one.name, one.files[0].uri, reason) from error
