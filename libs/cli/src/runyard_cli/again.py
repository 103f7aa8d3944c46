"""A run again: what to ask for so that it finds what it found the first time. Pure."""

from __future__ import annotations

from runyard.record.v1.record_service_pb2 import Record
from runyard.run.v1.types_pb2 import Executor, RunSpec
from runyard_contracts.images import pin_of

_ERASED = "[erased]"


def spec_again(record: Record) -> RunSpec:
    """Give the spec of a run with what stood open in it closed as its last attempt found it.

    The image is the very one, not what its tag means today; files of the web and of stores are those with
    the recorded SHA-256, or the run fails; "auto" is the executor that it was.
    """
    spec = RunSpec()
    spec.CopyFrom(record.run.spec)
    environment = record.environment
    if environment.executor != Executor.EXECUTOR_UNSPECIFIED:
        spec.executor = environment.executor
    if environment.executor == Executor.EXECUTOR_DOCKER:
        spec.image = (
            pin_of(environment.image, environment.image_id, environment.image_repo_digests) or spec.image
        )
    found = {each.name: each.files for each in record.datasets}
    for each in spec.inputs:
        if each.on_demand or not found.get(each.name):
            continue
        del each.files[:]
        each.files.extend(found[each.name])
        for file in each.files:
            file.ClearField("moved_bytes")
    if spec.code.git_author == _ERASED:
        spec.code.git_author = ""
    return spec
