"""What the record of an attempt's end says of its outputs: all of them, or the first and their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runyard.agent.v1.agent_service_pb2 import AttemptFinished
from runyard.run.v1.types_pb2 import Cause, CauseCode, FileList, OutputFile

OUTPUTS_BYTES_MAX = 900_000
"""Most that the outputs that an event names may take: an event holds 1 MiB."""

_BYTES_OF_EACH = 4
"""What a list adds to an entry."""


@dataclass(frozen=True, slots=True)
class ReportedOutputs:
    """The outputs of a last report, as its event says them."""

    named: Sequence[OutputFile]
    """As many as an event holds, in the order of the report."""
    file_list: FileList | None
    """Of all of them, where ``named`` are the first only."""

    @property
    def problem(self) -> str:
        """Say what nobody will find in the record; empty when its list of all outputs is stored."""
        if self.file_list is None or self.file_list.sha256:
            return ""
        return (
            f"all {self.file_list.file_count} outputs are stored, but there is no list of them: the record "
            f"names the first {len(self.named)} of them, `runyard outputs` all"
        )


def reported_outputs(finished: AttemptFinished) -> ReportedOutputs:
    """Read what a report says; more than an event holds are cut off, and counted."""
    told = finished.output_list if finished.HasField("output_list") else None
    room = OUTPUTS_BYTES_MAX
    for index, output in enumerate(finished.outputs):
        room -= output.ByteSize() + _BYTES_OF_EACH
        if room < 0:
            size_bytes = sum(each.size_bytes for each in finished.outputs)
            counted = FileList(file_count=len(finished.outputs), size_bytes=size_bytes)
            return ReportedOutputs(finished.outputs[:index], told or counted)
    return ReportedOutputs(finished.outputs, told)


def said_with(cause: Cause, problem: str) -> Cause:
    """Give the cause of an end that also says what is wrong with the outputs; a success is none any more."""
    if not problem or problem in cause.detail:
        return cause
    said = Cause()
    said.CopyFrom(cause)
    said.detail = "; ".join(filter(None, (cause.detail, problem)))
    if cause.code == CauseCode.CAUSE_CODE_SUCCEEDED:
        said.code = CauseCode.CAUSE_CODE_OUTPUT_UNAVAILABLE
        said.ClearField("exit_code")
    return said
