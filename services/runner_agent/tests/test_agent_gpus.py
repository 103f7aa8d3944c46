"""Whole runs on scripted GPUs: what is measured, who is blamed, and when a GPU is let go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard.metric.v1.batches_pb2 import GpuIncidentSeen, GpuSamplesRecorded, LogChunkRecorded, LogStream
from runyard.metric.v1.gpus_pb2 import GpuProcessOwner
from runyard.run.v1.types_pb2 import CauseCode

from .gpu_machine import build_library
from .running_agent import attempt_folder, cache, yard
from .scripted_yard import ScriptedYard

pytestmark = pytest.mark.engines

__all__ = ["cache", "yard"]

WAIT_AND_FAIL = "until [ -e go ]; do sleep 0.02; done"
TORCH = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79 GiB."


class Gpus:
    """Two scripted GPUs; each line of the script may be changed."""

    def __init__(self, folder: Path) -> None:
        self.library = build_library(folder / "nvml")
        self.file = folder / "gpus"
        self.script("", "")

    def script(self, first: str, second: str) -> None:
        """Let both GPUs show these readings besides their usual ones."""
        text = "".join(
            f"device {index} uuid=GPU-{name} name=Fake-H100 mem_total={80 << 30} {readings}\n"
            for index, (name, readings) in enumerate((("a", first), ("b", second)))
        )
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.rename(self.file)


@pytest.fixture
def gpus(tmp_path: Path) -> Gpus:
    return Gpus(tmp_path)


@pytest.fixture
def agent_changes(gpus: Gpus) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": str(gpus.library), "FAKE_NVML_FILE": str(gpus.file)}


async def until_seen(yard: ScriptedYard, kind: type[object], text: str) -> None:
    """Wait until a batch of a kind says something."""
    async with asyncio.timeout(40), yard.ledger.news:
        await yard.ledger.news.wait_for(
            lambda: any(isinstance(each, kind) and text in str(each) for each in yard.ledger.messages())
        )


async def until_ended(yard: ScriptedYard, grant: LeaseGrant) -> None:
    """Wait until the program has ended, as its shim has written down."""
    exit_file = attempt_folder(yard, grant) / "state" / "exit.json"
    async with asyncio.timeout(40):
        while not exit_file.exists():  # noqa: ASYNC110 - the shim tells nobody else
            await asyncio.sleep(0.02)


async def program_pid(yard: ScriptedYard, grant: LeaseGrant) -> int:
    folder = attempt_folder(yard, grant)
    while not (folder / "repository" / "pid").exists():  # noqa: ASYNC110 - the program brings it about
        await asyncio.sleep(0.02)
    return int((folder / "repository" / "pid").read_text())


async def test_a_full_gpu_is_the_cause_and_its_gpu_is_kept_until_it_reads_free(
    yard: ScriptedYard, gpus: Gpus
) -> None:
    grant = yard.scheduler.grant(
        "echo $CUDA_VISIBLE_DEVICES; echo $$ > pid.new; mv pid.new pid",
        WAIT_AND_FAIL,
        f"echo '{TORCH}' >&2; exit 1",
        gpu_uuids=["GPU-b"],
    )
    holds = (
        f"mem_used={79 << 30} sm_clock=1980 throttle=0x40 proc={await program_pid(yard, grant)}:{79 << 30}"
    )
    gpus.script("", holds)
    await until_seen(yard, GpuSamplesRecorded, f"memory_used_bytes: {79 << 30}")
    (attempt_folder(yard, grant) / "repository" / "go").touch()

    await until_seen(yard, LogChunkRecorded, "CUDA out of memory")
    await until_ended(yard, grant)
    # It looks at its GPUs as often as it renews.
    await yard.scheduler.renewals(3)
    assert not list(yard.scheduler.of(grant, "exited"))
    gpus.script("", "")
    exited = (await yard.scheduler.report(grant, "exited")).exited
    assert exited.cause.code == CauseCode.CAUSE_CODE_OOM_GPU
    assert exited.cause.detail == (
        "GPU-b was out of memory: 79.0 GiB of 80.0 GiB used, and it wanted 2.0 GiB more; "
        "the program exited with status 1"
    )
    finished = (await yard.finished(grant)).finished
    assert finished.cause == exited.cause
    assert yard.ledger.lines(grant, LogStream.LOG_STREAM_STDOUT) == ["GPU-b"]
    batches = [each for each in yard.ledger.messages() if isinstance(each, GpuSamplesRecorded)]
    processes = [process for batch in batches for process in batch.processes]
    assert {process.owner for process in processes} == {GpuProcessOwner.GPU_PROCESS_OWNER_HOLDER}
    (throttled,) = [each for each in yard.ledger.messages() if isinstance(each, GpuIncidentSeen)]
    assert (throttled.number, throttled.holder.run_id) == (0x40, grant.run_id)


async def test_an_xid_is_the_cause_of_a_failure_and_its_gpu_is_told_to_be_unfit(
    yard: ScriptedYard, gpus: Gpus
) -> None:
    grant = yard.scheduler.grant(WAIT_AND_FAIL, "exit 1", gpu_uuids=["GPU-a"])
    await yard.scheduler.report(grant, "started")
    gpus.script("xid=95 recovery=1", "")
    await until_seen(yard, GpuIncidentSeen, "number: 95")
    await yard.scheduler.wait_for(lambda: bool(yard.scheduler.inventories))
    assert "XID 95" in yard.scheduler.inventories[-1].gpus[0].unusable_reason
    yard.agent.kill()
    yard.agent.start()
    (attempt_folder(yard, grant) / "repository" / "go").touch()

    cause = (await yard.finished(grant)).finished.cause

    assert cause.code == CauseCode.CAUSE_CODE_GPU_FAULT
    assert cause.detail.startswith("GPU-a failed: XID 95 (uncontained ECC error); the program exited")
