"""Starts the supervisor as a process of its own and follows it until the yard is up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

from runyard_core.errors import RunyardError
from runyard_embedded.home import Home
from runyard_embedded.state import Phase, YardState, state_from
from runyard_engines import EngineFailed
from runyard_engines.process import tail


class StartFailed(RunyardError):
    """The supervisor said why the yard could not start."""

    default_code = "START_FAILED"


def start_in_background(home: Home, follow: Callable[[YardState], None]) -> None:
    """Start a yard and return when it is up; it does not end with us.

    Raises:
        StartFailed: with the code and sentence of the reason.
        EngineFailed: the supervisor ended without a word.
    """
    home.make()
    log_path = home.logs / "supervisor.log"
    ours, theirs = os.pipe()
    try:
        with log_path.open("ab") as log:
            supervisor = subprocess.Popen(
                [sys.executable, "-m", "runyard_embedded", str(theirs)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs],
                start_new_session=True,
                env={**os.environ, "RUNYARD_HOME": str(home.folder)},
            )
    finally:
        os.close(theirs)
    phase = Phase.STARTING
    with os.fdopen(ours, encoding="utf-8") as reports:
        for line in reports:
            report = json.loads(line)
            if "error" in report:
                supervisor.wait()
                problem = report["error"]
                raise StartFailed(problem["message"], code=problem["code"], metadata=problem["metadata"])
            state = state_from(report["state"])
            phase = state.supervisor.phase
            follow(state)
    if phase is not Phase.UP:
        status = supervisor.wait()
        lines = tail(log_path, 20)
        said = " ".join(lines[-1:])
        raise EngineFailed(
            f"the supervisor ended with status {status}: {said} (log: {log_path})",
            metadata={"last_lines": "\n".join(lines)},
        )
    supervisor.returncode = 0  # it lives on, and is not ours to wait for
