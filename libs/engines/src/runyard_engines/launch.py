"""The first thing that runs in a child: tie its life to its parent's, then become the real program.

Run as ``python -I -S launch.py PARENT_PID SIGNAL UID PROGRAM ARGUMENT...``. A program of its own and not a
``preexec_fn``, because Python code between fork and exec may deadlock when the parent has threads (gRPC has).
It imports nothing of ours: in the child neither the virtual environment nor its paths are known.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
KEEP_UID = -1
"""As UID: stay who we are."""


def main(arguments: list[str]) -> None:
    """Drop to UID if asked, ask for SIGNAL at the parent's death, and exec PROGRAM."""
    parent, signal_number, uid, program = (
        int(arguments[0]),
        int(arguments[1]),
        int(arguments[2]),
        arguments[3:],
    )
    if uid != KEEP_UID:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    # After the change of user: the kernel forgets the wish when credentials change.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the parent went away before the start")
    os.execvp(program[0], program)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
