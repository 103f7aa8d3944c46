"""Every way in which a step can end here has its own typed cause: all at once, on one real agent.

Causes that need a machine of their own are tried elsewhere; docs/causes.md names the test of each.
"""

from __future__ import annotations

import pytest

from runyard.agent.v1.agent_service_pb2 import LeaseGrant, StopOrder
from runyard.run.v1.types_pb2 import CauseCode, Executor, Input, Resources

from .running_agent import cache, yard
from .scripted_yard import ScriptedYard

__all__ = ["cache", "yard"]

pytestmark = [pytest.mark.engines, pytest.mark.timeout(120)]

DISK_MEGABYTES = 20


@pytest.fixture
def agent_changes() -> dict[str, str]:
    return {"RUNYARD_DISK_MEGABYTES": str(DISK_MEGABYTES)}


def grant_all(yard: ScriptedYard) -> dict[str, tuple[LeaseGrant, str]]:
    """Grant a run for each cause; with each goes a part of the sentence that explains it."""
    grant = yard.scheduler.grant
    return {
        "SUCCEEDED": (grant("true"), ""),
        "USER_ERROR": (grant("exit 3"), "exited with status 3"),
        "USER_ERROR by signal": (grant("kill -SEGV $$"), "SIGSEGV"),
        "OOM_HOST": (
            grant(
                "exec python -c 'held = [bytearray(1 << 20) for _ in range(900)]'",
                resources=Resources(memory_bytes_max=60 << 20),
            ),
            "memory",
        ),
        "TIME_LIMIT": (grant("sleep 99", time_limit_seconds=1), "its time limit of 1 s"),
        "NO_OUTPUT_TIMEOUT": (grant("echo once; sleep 99", no_output_timeout_seconds=1), "nothing for 1 s"),
        "STOP_CONDITION": (
            grant("""echo '{"loss": 0.1}'; sleep 99""", stop_condition="loss < 0.2"),
            "loss < 0.2",
        ),
        "STOPPED_BY_USER": (grant("sleep 99"), "enough"),
        "DISK_LIMIT": (
            grant("for n in 1 2 3; do head -c 9000000 /dev/zero > $VH_OUTPUTS_DIR/$n; done; sleep 99"),
            "bytes of the disk",
        ),
        "INPUT_UNAVAILABLE": (
            grant("true", inputs=[Input(name="data", uris=["datum://" + "0" * 64])]),
            "input 'data'",
        ),
        "ENVIRONMENT_UNAVAILABLE": (
            grant("true", requirements_path="no-such.txt"),
            "the environment could not be made",
        ),
        "IMAGE_UNAVAILABLE": (
            grant("true", executor=Executor.EXECUTOR_DOCKER, image="localhost:9/nobody/has-it:1"),
            "",
        ),
        "OUTPUT_UNAVAILABLE": (grant("ln -s /etc/passwd $VH_OUTPUTS_DIR/link"), "outside the outputs folder"),
    }


async def test_every_end_of_a_step_has_its_typed_cause(yard: ScriptedYard) -> None:
    # Once before, so that no environment is made while limits of a second run down.
    await yard.finished(yard.scheduler.grant("true"))
    granted = grant_all(yard)
    stopped, reason = granted["STOPPED_BY_USER"]
    await yard.scheduler.report(stopped, "started")
    code = CauseCode.CAUSE_CODE_STOPPED_BY_USER
    yard.scheduler.stop(
        StopOrder(run_id=stopped.run_id, attempt=1, epoch=1, grace_seconds=1, cause_code=code, reason=reason)
    )
    for name, (grant, sentence) in granted.items():
        cause = (await yard.finished(grant)).finished.cause
        assert CauseCode.Name(cause.code) == f"CAUSE_CODE_{name.partition(' ')[0]}", cause
        assert sentence in cause.detail, cause
