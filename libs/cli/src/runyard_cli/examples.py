"""Examples at the end of a command's help."""

from __future__ import annotations


def examples(*lines: str) -> str:
    """Write command lines as click shows them unchanged below the options; "runyard" goes without saying."""
    shown = (line if " runyard " in line else f"runyard {line}" for line in lines)
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in shown)))
