"""What an XID means: whose fault it is, and whether the GPU can go on."""

from __future__ import annotations

from collections.abc import Mapping

_MEANINGS: Mapping[int, str] = {
    8: "the GPU stopped processing",
    13: "graphics engine exception, mostly an illegal access of the program",
    31: "memory page fault, mostly an illegal access of the program",
    32: "corrupted push buffer stream",
    38: "driver firmware error",
    43: "the GPU stopped processing for a program",
    45: "cleanup after an earlier error or the end of a program",
    48: "double bit ECC error",
    56: "display engine error",
    57: "error programming video memory",
    61: "internal micro-controller breakpoint or warning",
    62: "internal micro-controller halt",
    63: "a memory row was remapped or retired",
    64: "a memory row could not be remapped or retired",
    68: "video decoder exception",
    69: "graphics engine class error",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "many single bit ECC errors",
    94: "contained ECC error",
    95: "uncontained ECC error",
    109: "context switch timeout",
    119: "the GPU's system processor does not answer",
    120: "error of the GPU's system processor",
    121: "error of the chip-to-chip link",
    140: "unrecovered ECC error",
}
# As NVIDIA's own device plugin ignores them for health: a program can cause each of these on a healthy GPU.
_OF_PROGRAMS = frozenset({13, 31, 43, 45, 68, 109})
# What the hardware has dealt with without harm to anybody.
_NOTES = frozenset({63, 92})
# Dealt with at the price of the program: the GPU can be used at once.
_CONTAINED = frozenset({94})


def is_fault(xid: int) -> bool:
    """Say whether the GPU, and not the program, is to blame for a run that failed with it."""
    return xid not in _OF_PROGRAMS | _NOTES


def needs_reset(xid: int) -> bool:
    """Say whether the GPU cannot be used any more, as far as anybody can tell from the number."""
    return xid not in _OF_PROGRAMS | _NOTES | _CONTAINED


def xid_words(xid: int) -> str:
    """Say an XID for people: "XID 79 (the GPU has fallen off the bus)"."""
    meaning = _MEANINGS.get(xid)
    return f"XID {xid} ({meaning})" if meaning else f"XID {xid}"
