"""Whether a GPU can be used, by what it last answered and which errors it had."""

from __future__ import annotations

from dataclasses import dataclass, replace

from runyard_agent.domain.xids import needs_reset, xid_words

_SILENT_LOOKS_MIN = 2
"""One look without an answer is no loss yet."""
_ACTIONS = {
    1: "a reset of the GPU",
    2: "a reboot of the machine",
    3: "a drain of its peers",
    4: "a drain and a reset",
    5: "a recovery of its memory domain",
    6: "a reset of its bus",
    7: "a reboot of the machine",
}


@dataclass(frozen=True, slots=True)
class GpuHealth:
    """What is known of one GPU since the agent started."""

    silent_looks: int = 0
    silence: str = ""
    """What the driver said instead of an answer."""
    xid: int = 0
    """Last error after which the GPU cannot be used; 0 for none."""
    recovery_action: int = 0
    """What the driver wants done before the GPU is used again."""

    @property
    def is_lost(self) -> bool:
        """True when it does not answer."""
        return self.silent_looks >= _SILENT_LOOKS_MIN

    @property
    def unusable_reason(self) -> str:
        """Why no run may get it; empty when one may."""
        if self.is_lost:
            return f"it does not answer: {self.silence}"
        if self.recovery_action:
            action = _ACTIONS.get(self.recovery_action, f"recovery action {self.recovery_action}")
            after = f" after {xid_words(self.xid)}" if self.xid else ""
            return f"the driver asks for {action}{after}"
        return f"it needs a reset after {xid_words(self.xid)}" if self.xid else ""

    def after_silence(self, silence: str) -> GpuHealth:
        """The driver gave no reading."""
        return replace(self, silent_looks=self.silent_looks + 1, silence=silence)

    def after_answer(self, recovery_action: int | None) -> GpuHealth:
        """The GPU was read. A driver that can say so (None: it cannot) knows best whether it needs anything.

        A GPU that was lost and is back was reset: nothing else brings one back.
        """
        is_well = recovery_action == 0 or (recovery_action is None and self.is_lost)
        return GpuHealth(xid=0 if is_well else self.xid, recovery_action=recovery_action or 0)

    def after_xid(self, xid: int) -> GpuHealth:
        """The driver reported an error."""
        return replace(self, xid=xid) if needs_reset(xid) else self
