"""The node itself: what machine it is."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from pathlib import Path

from runyard.node.v1.types_pb2 import NodeInventory
from runyard_agent.attempt_sampler import AttemptSampler, HostSample

__all__ = ["AttemptSampler", "HostSample", "boot_id", "inventory", "operating_system"]

_PROC = Path("/proc")


def inventory(state_dir: Path) -> NodeInventory:
    """Describe the machine. Caller fills in: agent_version, slot_count, and what Docker and the GPUs say.

    Args:
        state_dir: a folder on the disk whose free space counts.
    """
    return NodeInventory(
        hostname=socket.gethostname(),
        boot_id=boot_id(),
        cpu_model=_cpu_model(),
        cpu_count=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(),
        disk_free_bytes=shutil.disk_usage(state_dir).free,
        os=operating_system(),
        kernel=platform.release(),
    )


def boot_id() -> str:
    """Give the id that changes with every boot of the machine."""
    return _read(_PROC / "sys/kernel/random/boot_id")


def operating_system() -> str:
    """Name the operating system for people: "Debian GNU/Linux 12 (bookworm)"."""
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "") or platform.system()
    except OSError:
        return platform.system()


def _cpu_model() -> str:
    for line in _read(_PROC / "cpuinfo").splitlines():
        name, _, value = line.partition(":")
        # Arm has no "model name" here; its part number is better than nothing.
        if name.strip() in {"model name", "Hardware", "CPU part"}:
            return value.strip()
    return platform.machine()


def _memory_bytes() -> int:
    for line in _read(_PROC / "meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
