"""Which limits this machine can hold for programs that run as plain processes, and how.

Control groups hold them where the agent may make some: as root, or in a tree that was handed to it (systemd's
``Delegate=``). Elsewhere the shim looks once a second, and the kernel's limits for each user and file help.
``MachineLimits.warnings`` says what remains, for the node's inventory and for whoever enrols a machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runyard_agent import control_group
from runyard_agent.runtime import LaunchPlan
from runyard_core.errors import RunyardError

IN_GROUP = "a control group"
"""Of ``MachineLimits.held``: the kernel holds it, for all processes of an attempt together."""

CONTROLLERS = ("memory", "pids", "cpu")
PROCESSES_MAX = 32_768
"""Of an attempt, where nobody sets another limit and the machine has so many."""

_MACHINE_PART = 4
_DISK_PART = 0.8
_CPU_PERIOD_MICROSECONDS = 100_000


@dataclass(frozen=True, slots=True)
class AttemptRules:
    """What any attempt of the node may take. Zeros are a share of what the machine has."""

    processes_max: int = 0
    """RUNYARD_PROCESSES_MAX: processes and threads of an attempt together."""
    disk_bytes_max: int = 0
    """RUNYARD_DISK_MEGABYTES: what an attempt may write below its folders."""

    def processes(self) -> int:
        """Give the limit of processes: by default a quarter of what the kernel has, at most 32,768."""
        return self.processes_max or min(PROCESSES_MAX, _kernel_processes_max() // _MACHINE_PART)

    def disk_bytes(self, directory: Path) -> int:
        """Give the limit of bytes for an attempt that starts now: by default four fifths of what is free."""
        return self.disk_bytes_max or int(shutil.disk_usage(directory).free * _DISK_PART)


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """What holds the limits of plain processes on this machine."""

    trees: Mapping[str, Path] = field(default_factory=dict)
    """Controller, or "kill", to the folder below which attempts get their groups."""
    legacy: frozenset[str] = frozenset()
    """Controllers that are of version 1."""
    is_root: bool = False

    @property
    def held(self) -> Mapping[str, str]:
        """Say of each limit what holds it; the whole answer to "what can this machine hold?"."""
        watched = "the shim, which looks once a second"
        group = {name: IN_GROUP for name in CONTROLLERS if name in self.trees}
        by_user = "" if self.is_root else "the kernel's limit for the user"
        return {
            "memory": group.get("memory", watched),
            "processes": group.get("pids", by_user or watched),
            "cpu": group.get("cpu", "nothing"),
            "disk": f"{watched}, and the kernel's limit for each file",
            "end of all processes": IN_GROUP if "kill" in self.trees else "the shim, by descent",
        }

    @property
    def warnings(self) -> Sequence[str]:
        """Give what does not hold here as it should, one sentence each."""
        held = self.held
        found = []
        if held["cpu"] == "nothing":
            found.append("A run's CPU limit does not hold for a process: run it in a container for that.")
        weak = [name for name in ("memory", "processes") if held[name] != IN_GROUP]
        if weak:
            found.append(
                f"The limit of {' and '.join(weak)} of a process is held by {held[weak[0]]} only: no control "
                "groups may be made here (systemd: Delegate=yes and DelegateSubgroup=agent)."
            )
        if self.is_root:
            found.append(
                "Processes of runs are root, as the agent is: what they do to the machine is not limited."
            )
        return tuple(found)

    def make_group(self, plan: LaunchPlan) -> list[str]:
        """Make the control group of an attempt with its limits; gives its folders, none without a tree.

        Raises:
            RunyardError: ENVIRONMENT_UNAVAILABLE, the kernel refuses a limit.
        """
        for tries_left in (2, 1, 0):
            try:
                return self._made_group(plan)
            except OSError as error:
                # The shim of an attempt that ends now may remove a tree that it finds empty.
                if not isinstance(error, FileNotFoundError) or not tries_left:
                    raise RunyardError(
                        f"the limits of {plan.name} cannot be set: {error}", code="ENVIRONMENT_UNAVAILABLE"
                    ) from error
        raise AssertionError("unreachable")

    def find_group(self, plan: LaunchPlan) -> list[str]:
        """Give the folders of an attempt's group that are there."""
        return self.group_named(f"{plan.run_id}-{plan.attempt}")

    def group_named(self, attempt: str) -> list[str]:
        """Give the same by the name of the attempt's folder."""
        return [folder for folder in self._folders(f"runyard-{attempt}") if os.path.isdir(folder)]

    def close(self) -> None:
        """Remove every group in which nothing lives, and the trees when they are empty.

        Not while an agent runs in the folder: a group whose program is about to enter it is empty, too.
        """
        for tree in {*self.trees.values()}:
            for group in _groups_below(tree):
                if not control_group.members([group]):
                    control_group.remove([group])

    def _made_group(self, plan: LaunchPlan) -> list[str]:
        for tree in {*self.trees.values()}:
            tree.mkdir(exist_ok=True)
        for controller in CONTROLLERS:
            if controller in self.trees and controller not in self.legacy:
                _set(self.trees[controller] / "cgroup.subtree_control", f"+{controller}")
        folders = self._folders(plan.name)
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
        for name, value in group_settings(plan, self.legacy).items():
            if (tree_of := self.trees.get(name.partition(".")[0])) is not None:
                _set(tree_of / plan.name / name, value)
        return folders

    def _folders(self, name: str) -> list[str]:
        return sorted({str(tree / name) for tree in self.trees.values()})


def look_at_machine(agent_directory: Path) -> MachineLimits:
    """See what this machine lets the agent of a folder limit; nothing is made yet."""
    mounts = _mounts(Path("/proc/self/mounts").read_bytes().decode("utf-8", "replace"))
    name = tree_name(agent_directory)
    is_root = os.geteuid() == 0
    trees: dict[str, Path] = {}
    if (unified := mounts.get("")) is not None:
        trees |= _unified_trees(unified, name, is_root=is_root)
    legacy = {
        controller: mounts[controller] / name
        for controller in CONTROLLERS
        if is_root and controller not in trees and os.access(mounts.get(controller, "/none"), os.W_OK)
    }
    return MachineLimits({**trees, **legacy}, frozenset(legacy), is_root)


def tree_name(agent_directory: Path) -> str:
    """Name the trees of the agent of a folder; those of another agent of the machine have another name."""
    return f"runyard-{hashlib.sha256(os.fsencode(agent_directory.absolute())).hexdigest()[:8]}"


def group_settings(plan: LaunchPlan, legacy: frozenset[str] = frozenset()) -> Mapping[str, str]:
    """Give the files of a group with what is to be written to them, in order."""
    found: dict[str, str] = {}
    memory, quota = plan.memory_bytes_max, plan.cpu_millicores_max * _CPU_PERIOD_MICROSECONDS // 1000
    # Without swap: a limit that only makes everything slow is none.
    if memory and "memory" in legacy:
        found |= {"memory.limit_in_bytes": str(memory), "memory.memsw.limit_in_bytes": str(memory)}
    elif memory:
        found |= {"memory.max": str(memory), "memory.swap.max": "0"}
    if plan.processes_max:
        found["pids.max"] = str(plan.processes_max)
    if quota and "cpu" in legacy:
        found["cpu.cfs_quota_us"] = str(quota)
    elif quota:
        found["cpu.max"] = f"{quota} {_CPU_PERIOD_MICROSECONDS}"
    return found


def user_processes_max(plan: LaunchPlan, limits: MachineLimits) -> int:
    """Give the kernel's limit for the user's processes where it is what holds the attempt's; else 0.

    It counts all processes of the user, so it allows as many more as the attempt may have. Root has none.
    """
    if "pids" in limits.trees or limits.is_root or not plan.processes_max:
        return 0
    return _own_processes() + plan.processes_max


def _unified_trees(mounted: Path, name: str, *, is_root: bool) -> dict[str, Path]:
    """Find a place in the hierarchy of version 2: below its root, or beside the group of the agent."""
    parent = mounted
    if not is_root:
        own = _own_unified_group(Path("/proc/self/cgroup").read_text(encoding="utf-8"))
        parent = (mounted / own.lstrip("/")).parent
        if not own.strip("/") or not os.access(parent / "cgroup.procs", os.W_OK):
            return {}
    if not os.access(parent, os.W_OK):
        return {}
    tree = parent / name
    available = _words(parent / "cgroup.controllers")
    wanted = [each for each in CONTROLLERS if each in available]
    # Refused where processes live right in the parent; then the group still serves to end them all.
    for each in wanted:
        _try_set(parent / "cgroup.subtree_control", f"+{each}")
    enabled = _words(parent / "cgroup.subtree_control")
    return {"kill": tree, **{each: tree for each in wanted if each in enabled}}


def _mounts(text: str) -> dict[str, Path]:
    """Give where each controller of version 1 is mounted, and under "" the hierarchy of version 2."""
    found: dict[str, Path] = {}
    # By what the kernel writes alone: names of mounts may hold any other space or end of a line.
    for line in text.rstrip("\n").split("\n"):
        _, target, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            found.setdefault("", Path(target))
        elif kind == "cgroup":
            for option in options.split(","):
                if option in CONTROLLERS:
                    found.setdefault(option, Path(target))
    return found


def _own_unified_group(text: str) -> str:
    return next((line[3:] for line in text.splitlines() if line.startswith("0::")), "")


def _groups_below(tree: Path) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(tree) if entry.is_dir()]
    except FileNotFoundError:
        return []


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


def _set(path: Path, value: str) -> None:
    try:
        path.write_text(value, encoding="ascii")
    except FileNotFoundError:
        # The kernel was built without swap accounting; memory itself is limited all the same.
        if "swap" not in path.name and "memsw" not in path.name:
            raise


def _try_set(path: Path, value: str) -> None:
    try:
        path.write_text(value, encoding="ascii")
    except OSError:
        return


def _kernel_processes_max() -> int:
    found = [
        int(Path(f"/proc/sys/kernel/{name}").read_text(encoding="ascii"))
        for name in ("pid_max", "threads-max")
    ]
    return min(found)


def _own_processes() -> int:
    """Count the threads of our user, as the kernel does for RLIMIT_NPROC."""
    count = 0
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == os.geteuid():
                count += len(os.listdir(f"{entry.path}/task"))
        except OSError:
            continue
    return count
