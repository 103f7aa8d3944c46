"""Pure steps that bring a stored payload from schema version n to n + 1, run on read.

An event at its present version never comes here. How to write a step: docs/how-to/add-an-event.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Step = Callable[[bytes], bytes]
"""Total for what its version allows; raises ValueError, LookupError or DecodeError for anything else."""

STEPS: Mapping[tuple[str, int], Step] = {}
"""(event type, from version) -> step. Empty while every event is at version 1."""


class NoUpcasterError(LookupError):
    """A stored schema version that cannot be brought up to date."""


def upcast(
    type_name: str,
    from_version: int,
    to_version: int,
    data: bytes,
    steps: Mapping[tuple[str, int], Step] = STEPS,
) -> bytes:
    """Run the steps from one schema version to another.

    Raises:
        NoUpcasterError: a step is missing, or the stored version is newer than this code.
    """
    if from_version > to_version:
        raise NoUpcasterError(f"{type_name} version {from_version} is newer than this code ({to_version})")
    for version in range(from_version, to_version):
        step = steps.get((type_name, version))
        if step is None:
            raise NoUpcasterError(f"no step brings {type_name} from version {version} to {version + 1}")
        data = step(data)
    return data
