"""The parent of one command beside a running program: enters the program's surroundings, and ends with it.

Run as ``python -I -S side_shim.py PLAN_FD STATUS_FD LIFE_FD`` by ``side_process``, with the command's streams
as its own. Like the shim it imports little beside the standard library. The plan is JSON and comes by a pipe,
as it may hold secrets; how the command ended goes to STATUS_FD as JSON. The command ends with the program,
and when the other end of LIFE_FD is closed: when the agent lets go of it, or dies.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import sys
import termios
import time
from typing import Any

if __name__ == "__main__":
    # Isolated, it would not find our own package; at the end, nothing there hides the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from runyard_agent import control_group
from runyard_agent.process_table import descendants, end_all, kill_all, start_ticks
from runyard_agent.shim_child import restore_signals

_PR_SET_CHILD_SUBREAPER = 36
_NAMESPACES = ("user", "mnt", "net", "ipc", "uts", "pid", "cgroup")
_JOB_VARIABLE = b"VH_JOB_ID="
_HANG_UP_SECONDS = 1.0
_LOOK_SECONDS = 0.01
_OOM_SCORE_ADJUSTMENT = "300"
_LIMITS = ("RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_MEMLOCK")

_libc = ctypes.CDLL(None, use_errno=True)


def main(plan_descriptor: int, status_descriptor: int, life_descriptor: int) -> int:
    """Run the command of the plan to its end."""
    with open(plan_descriptor, encoding="utf-8") as file:
        plan: dict[str, Any] = json.load(file)
    for descriptor in (status_descriptor, life_descriptor):
        os.set_inheritable(descriptor, False)
    # What the command leaves behind becomes ours: none of it gets out of sight.
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    status = _run(plan, life_descriptor)
    os.write(status_descriptor, json.dumps(status).encode())
    return 0


def _run(plan: dict[str, Any], life: int) -> dict[str, object]:
    try:
        program = os.pidfd_open(plan["program"])
    except ProcessLookupError:
        return {"ended_with_program": True}
    if start_ticks(plan["program"]) != plan["program_start_ticks"]:
        return {"ended_with_program": True}
    try:
        environment = _environment(plan["program"])
        namespaces = _other_namespaces(plan["program"])
        limits = _limits(plan["program"])
    except OSError as error:
        return {"problem": f"the program cannot be looked into: {error}"}
    child = os.fork()
    if child == 0:
        _become_command(plan, environment, namespaces, limits)
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        # Whoever reads them must see the end when the command is through, not when we are.
        os.dup2(null, stream)
    return _wait(child, os.pidfd_open(child), program, life)


def _wait(child: int, child_descriptor: int, program: int, life: int) -> dict[str, object]:
    poll = select.poll()
    for descriptor in (child_descriptor, program, life):
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    ready = {descriptor for descriptor, _ in poll.poll()}
    ended_by_itself = child_descriptor in ready
    if not ended_by_itself:
        _hang_up()
    status = _end_all(child)
    if not ended_by_itself:
        return {"ended_with_program": program in ready}
    by_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {"exit_code": 128 + by_signal if by_signal else os.WEXITSTATUS(status), "signal": by_signal}


def _hang_up() -> None:
    """Tell the command what a terminal that is closed tells, and give it a moment."""
    kill_all(descendants(os.getpid()), signal.SIGHUP)
    kill_all(descendants(os.getpid()), signal.SIGCONT)
    gives_up_at = time.monotonic() + _HANG_UP_SECONDS
    while descendants(os.getpid()) and time.monotonic() < gives_up_at:
        time.sleep(_LOOK_SECONDS)


def _end_all(child: int) -> int:
    """End what is left until nothing is; gives the child's status."""
    status = 0
    while True:
        end_all(lambda: descendants(os.getpid()))
        try:
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if ended[0] == child:
                    status = ended[1]
        except ChildProcessError:
            return status
        time.sleep(_LOOK_SECONDS)


def _become_command(
    plan: dict[str, Any],
    environment: dict[bytes, bytes],
    namespaces: list[int],
    limits: dict[int, tuple[int, int]],
) -> None:
    try:
        os.setsid()
        if plan["terminal_type"]:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            environment[b"TERM"] = os.fsencode(plan["terminal_type"])
        try:
            control_group.enter(plan["groups"])
        except OSError as error:
            os.write(2, f"runyard: outside of the attempt's limits: {error}\n".encode())
        for descriptor in namespaces:
            _call("setns", descriptor, 0)
            os.close(descriptor)
        for kind, limit in limits.items():
            resource.setrlimit(kind, limit)
        _make_way_when_memory_runs_out()
        os.chdir(plan["working_directory"])
        restore_signals()
        command = [os.fsencode(argument) for argument in plan["command"]] or [_shell(environment)]
        # Looked for on the program's own PATH.
        os.execvpe(command[0], command, environment)  # noqa: S606
    except FileNotFoundError:
        os.write(2, f"runyard: {plan['command'][0] if plan['command'] else 'sh'}: not found\n".encode())
        os._exit(127)
    except OSError as error:
        os.write(2, f"runyard: cannot run the command: {error}\n".encode())
        os._exit(126)


def _shell(environment: dict[bytes, bytes]) -> bytes:
    path = environment.get(b"PATH", b"/usr/bin:/bin")
    found = (folder for folder in path.split(b":") if os.access(os.path.join(folder, b"bash"), os.X_OK))
    return b"bash" if next(found, None) is not None else b"sh"


def _environment(program: int) -> dict[bytes, bytes]:
    """Give the variables that the program was started with; some programs write over their own."""
    first: bytes | None = None
    for pid in [program, *descendants(program)]:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                content = file.read()
        except FileNotFoundError:
            continue
        first = content if first is None else first
        if content.startswith(_JOB_VARIABLE) or b"\0" + _JOB_VARIABLE in content:
            first = content
            break
    entries = (entry.partition(b"=") for entry in (first or b"").split(b"\0"))
    return {name: value for name, separator, value in entries if name and separator}


def _other_namespaces(program: int) -> list[int]:
    """Open the namespaces that the program does not share with us, in the order in which to enter them."""
    found = []
    for name in _NAMESPACES:
        path = f"/proc/{program}/ns/{name}"
        try:
            is_ours = os.readlink(path) == os.readlink(f"/proc/self/ns/{name}")
        except FileNotFoundError:
            continue
        if not is_ours:
            found.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    return found


def _limits(program: int) -> dict[int, tuple[int, int]]:
    kinds = [getattr(resource, name) for name in _LIMITS]
    return {kind: resource.prlimit(program, kind) for kind in kinds}


def _make_way_when_memory_runs_out() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(_OOM_SCORE_ADJUSTMENT)
    except OSError:
        pass


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in sys.argv[1:])))
