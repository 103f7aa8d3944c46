"""What is known of an attempt's GPUs that may explain why its program ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runyard_agent.domain.gpu_memory import GpuMemory, full_gpu, said_out_of_memory
from runyard_agent.domain.xids import xid_words


@dataclass(frozen=True, slots=True)
class GpuEvidence:
    """Measurements and errors of one attempt's GPUs."""

    gpu_uuids: tuple[str, ...] = ()
    """As its program sees them numbered."""
    memory: Mapping[str, GpuMemory] = field(default_factory=dict)
    faulty_gpu_uuid: str = ""
    """Of the GPUs, one that failed while the program ran; empty when none did."""
    xid: int = 0
    """What the driver called it; 0 when it only fell silent or had uncorrected errors."""
    last_output: str = ""
    """The end of what the program printed."""

    def fault(self) -> str:
        """Say which GPU failed; empty when none did."""
        if not self.faulty_gpu_uuid:
            return ""
        what = xid_words(self.xid) if self.xid else "it was lost or had uncorrected memory errors"
        return f"{self.faulty_gpu_uuid} failed: {what}"

    def out_of_memory(self) -> str:
        """Say which GPU had no memory left; empty when the program does not, or measurement denies it."""
        said = said_out_of_memory(self.last_output)
        full = full_gpu(said, self.gpu_uuids, self.memory) if said is not None else None
        if said is None or full is None:
            return ""
        memory = self.memory[full]
        wanted = f", and it wanted {_gib(said.wanted_bytes)} more" if said.wanted_bytes else ""
        return (
            f"{full} was out of memory: {_gib(memory.used_bytes)} of {_gib(memory.total_bytes)} used{wanted}"
        )


NO_GPU_EVIDENCE = GpuEvidence()


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
