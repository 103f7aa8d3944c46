"""A whole run on this machine's own GPU, where it has one (``make gpu-check``), and on a scripted one."""

from __future__ import annotations

import asyncio
from itertools import accumulate
from pathlib import Path

import pytest

from runyard.metric.v1.batches_pb2 import GpuSamplesRecorded, LogStream
from runyard.metric.v1.gpus_pb2 import GpuProcessOwner
from runyard.run.v1.types_pb2 import CauseCode

from .gpu_machine import gpu_machine, needs_gpu
from .running_agent import attempt_folder, cache, yard
from .scripted_yard import ScriptedYard
from .test_agent_gpus import Gpus, program_pid

pytestmark = pytest.mark.engines

__all__ = ["cache", "yard"]

HELD_BYTES = 256 << 20
TELL_PID = "echo $$ > pid.new; mv pid.new pid"
# With nothing but the driver: the memory of a GPU is held until somebody says "go".
HOLD = f"""\
import ctypes, os, time
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, (name, code)
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t({HELD_BYTES}))
with open("pid.new", "w") as file:
    file.write(str(os.getpid()))
os.rename("pid.new", "pid")
while not os.path.exists("go"):
    time.sleep(0.05)
"""


@pytest.fixture(params=["real", "scripted"])
def scripted(request: pytest.FixtureRequest, tmp_path: Path) -> Gpus | None:
    """Give two scripted GPUs, or None where the run is to be on a real one."""
    if request.param == "scripted":
        return Gpus(tmp_path)
    with gpu_machine() as found:
        needs_gpu(found)
    return None


@pytest.fixture
def agent_changes(scripted: Gpus | None) -> dict[str, str]:
    if scripted is None:
        return {}
    return {"LD_LIBRARY_PATH": str(scripted.library), "FAKE_NVML_FILE": str(scripted.file)}


async def test_a_run_is_seen_on_its_own_gpu_until_its_memory_is_free(
    yard: ScriptedYard, scripted: Gpus | None
) -> None:
    uuid = yard.scheduler.hellos[0].inventory.gpus[0].uuid
    works = f"cat > hold.py <<'END'\n{HOLD}END\npython hold.py" if scripted is None else TELL_PID
    grant = yard.scheduler.grant(
        "echo $CUDA_VISIBLE_DEVICES", works, "until [ -e go ]; do sleep 0.05; done", gpu_uuids=[uuid]
    )
    pid = await program_pid(yard, grant)
    if scripted is not None:
        scripted.script(f"mem_used={HELD_BYTES} proc={pid}:{HELD_BYTES}", "")

    async with asyncio.timeout(40), yard.ledger.news:
        await yard.ledger.news.wait_for(lambda: memory_of(yard, pid) >= HELD_BYTES)
    (attempt_folder(yard, grant) / "repository" / "go").touch()
    if scripted is not None:
        scripted.script("", "")
    finished = (await yard.finished(grant)).finished

    assert finished.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED, finished.cause
    assert yard.ledger.lines(grant, LogStream.LOG_STREAM_STDOUT) == [uuid]
    started = (await yard.scheduler.report(grant, "started")).started
    assert [gpu.uuid for gpu in started.hardware.gpus] == [uuid]
    assert [foreign for foreign in yard.scheduler.foreign if foreign.pid == pid] == []


def memory_of(yard: ScriptedYard, pid: int) -> int:
    """Give the most memory that a program was seen to hold on a GPU that is its attempt's."""
    columns = (
        process.memory_bytes
        for batch in yard.ledger.messages()
        if isinstance(batch, GpuSamplesRecorded)
        for process in batch.processes
        if process.pid == pid and process.owner == GpuProcessOwner.GPU_PROCESS_OWNER_HOLDER
    )
    return max((max(accumulate(column)) for column in columns), default=0)
