"""What the shim's child does before it is the program: streams, limits, and the signals of a shell."""

from __future__ import annotations

import os
import resource
import signal

from runyard_agent import control_group

# Training makes way before the agent and the rest of the machine when memory runs out.
_OOM_SCORE_ADJUSTMENT = "300"


def become_program(plan: dict, streams: list[int]) -> None:  # type: ignore[type-arg]
    """Become the program of a plan, with these standard streams; ends the process when that cannot be."""
    program = plan["argv"][0]
    try:
        os.setsid()
        for target, descriptor in enumerate(streams):
            os.dup2(descriptor, target)
        control_group.enter(plan["groups"])
        _limit(resource.RLIMIT_FSIZE, plan["disk_bytes_max"])
        _limit(resource.RLIMIT_NPROC, plan["user_processes_max"])
        restore_signals()
        _make_way_when_memory_runs_out()
        os.chdir(plan["working_directory"])
        os.execve(program, plan["argv"], plan["environment"])  # noqa: S606
    except OSError as error:
        os.write(2, f"runyard: cannot run {program}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def restore_signals() -> None:
    """Find the signals as a shell would: nothing ignored, nothing blocked.

    Python ignores two for itself, and an agent that was started with nohup, or in the background of a script,
    has inherited more: the key that interrupts would do nothing to whatever it starts.
    """
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _limit(kind: int, wanted: int) -> None:
    """Set what the kernel holds for each process alone, and for all that it starts; 0 sets nothing."""
    if wanted:
        hard = resource.getrlimit(kind)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (most, most))


def _make_way_when_memory_runs_out() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(_OOM_SCORE_ADJUSTMENT)
    except OSError:
        pass
