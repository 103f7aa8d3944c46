"""A shell in a run's container and a port of it, in a whole yard."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from runyard.run.v1.types_pb2 import Executor, Outcome, RunSpec, RunState
from tests.e2e.yard import Clients, Yard

pytestmark = [
    pytest.mark.engines, pytest.mark.docker, pytest.mark.timeout(120), pytest.mark.xdist_group("yard"),
]  # fmt: skip

PROGRAM = "python3 -m http.server 8123 & until [ -e done ]; do sleep 0.1; done; kill $!"


async def test_hands_are_put_on_a_container_as_on_a_process(
    yard: Yard, clients: Clients, test_image: str
) -> None:
    spec = RunSpec(step="serve", command_lines=[PROGRAM], image=test_image, executor=Executor.EXECUTOR_DOCKER)
    run = await clients.submit(spec)
    await clients.reached(run.run_id, RunState.RUN_STATE_RUNNING)
    environment = {**os.environ, "RUNYARD_HOME": str(yard.home), "NO_COLOR": "1"}

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "runyard_cli", *words]

    script = "pwd; echo $VH_JOB_ID; cat; test -e /.dockerenv || exit 9; exit 3"
    done = subprocess.run(  # noqa: ASYNC221 - one after the other
        command("exec", run.run_id, "--", "sh", "-c", script),
        input="from here\n", capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == f"/valohai/repository\nexec-{run.run_id}\nfrom here\n"
    assert done.returncode == 3

    forward = subprocess.Popen(  # noqa: ASYNC220 - ends below
        command("forward", run.run_id, "8123:0"), env=environment, stdout=subprocess.PIPE, text=True
    )
    assert forward.stdout is not None
    address = re.search(r"127\.0\.0\.1:\d+", forward.stdout.readline())
    assert address
    gives_up_at = time.monotonic() + 20
    while not _answers(f"http://{address[0]}/"):
        assert time.monotonic() < gives_up_at
    forward.send_signal(signal.SIGINT)
    assert forward.wait(20) == 0
    forward.stdout.close()

    yard.cli("exec", run.run_id, "--", "touch", "done")
    assert (await clients.finished(run.run_id)).outcome == Outcome.OUTCOME_SUCCEEDED


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
