"""Variables by which a step speaks to the agent and not to its program (``VH_...``): which of them count.

The run contract lets a step ask for things that are not its own on a shared machine. What is safe is done,
what is not is said: by the linter before a run, and in the log of a run that asks for it all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

NO_DATA_CACHE = "VH_NO_DATA_CACHE"
"""True: input files are fetched, also those that the node has."""
NO_IMAGE_CACHE = "VH_NO_IMAGE_CACHE"
"""True: the registry is asked for the image, also when the node has one of that name."""
CPU_LIMIT = "VH_CPU_LIMIT"
"""A number of CPUs, or a list of CPUs, of which only the number counts."""
GPUS = "VH_GPUS"
"""How many GPUs the run gets."""

_NOT_HEEDED: Mapping[str, str] = {
    "VH_CLEAN": "what a node keeps belongs to all of its runs, and goes when it is used least",
    "VH_DOCKER_NETWORK": "the network of containers is set by the node's operator (RUNYARD_DOCKER_NETWORK)",
    "VH_EXPOSE_PORTS": "no port of a run is opened to the network; `runyard forward` leads to one",
    "VH_MEMORY_LIMIT": "it is the step's resources, memory, max",
}
_TRUE = frozenset({"1", "yes", "true"})


def is_true(text: str | None) -> bool:
    """Say whether the value of a control switches it on."""
    return (text or "").strip().lower() in _TRUE


def cpu_count_of(text: str) -> float:
    """Give how many CPUs ``VH_CPU_LIMIT`` asks for: "2", "1.5", or "0,2,4" and "0-3" for so many.

    Raises:
        ValueError: it is none of these.
    """
    text = text.strip()
    if "," not in text and "-" not in text:
        count = float(text)
        if not 0 < count <= 100_000:
            raise ValueError(f"{text!r} is no number of CPUs")
        return count
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        begin, end = int(first), int(last if dash else first)
        if not 0 <= begin <= end < 100_000:
            raise ValueError(f"{text!r} is no list of CPUs")
        cpus.update(range(begin, end + 1))
    return float(len(cpus))


def not_heeded(variables: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    """Give the name of each control that is set and does nothing here, with a sentence that says so."""
    for name, reason in _NOT_HEEDED.items():
        if variables.get(name):
            yield name, f"{name} is not heeded: {reason}"
    cpus = variables.get(CPU_LIMIT) or ""
    if "," in cpus or "-" in cpus:
        yield CPU_LIMIT, f"{CPU_LIMIT} limits how many CPUs are used, not which"
