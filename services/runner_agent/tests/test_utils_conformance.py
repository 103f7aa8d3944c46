"""Code that uses the real ``valohai-utils`` runs unchanged, as a process and in a container.

The package comes from the package index when the test runs; without the index nothing is run, and it says so.
"""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Value

from runyard.agent.v1.agent_service_pb2 import Distributed
from runyard.metric.v1.batches_pb2 import LogStream
from runyard.run.v1.types_pb2 import (
    CauseCode,
    EnvironmentVariable,
    Executor,
    Input,
    Mount,
    ParameterValue,
)

from .running_agent import cache, yard
from .scripted_yard import ScriptedYard

__all__ = ["cache", "yard"]

pytestmark = [pytest.mark.engines, pytest.mark.timeout(180), pytest.mark.xdist_group("conformance")]

ROOT = Path(__file__).resolve().parents[3]
UTILS = "valohai-utils==0.8.0"
INSTALL_SECONDS_MAX = 120
PROGRAM = """
import os, warnings
warnings.simplefilter("error")
import valohai

valohai.prepare(
    step="train", image="x",
    default_parameters={"epochs": 1, "rate": 0.5, "names": ["z"], "flag": False},
    default_inputs={"images": [], "late": [], "none": []},
)
assert valohai.parameters("epochs").value == 7, valohai.parameters("epochs").value
assert valohai.parameters("rate").value == 0.25
assert valohai.parameters("names").value == ["a", "b"]
assert valohai.parameters("flag").value is True
paths = sorted(valohai.inputs("images").paths())
assert [os.path.relpath(path, "/valohai/inputs/images") for path in paths] == ["a.txt", "x/b.txt"], paths
assert valohai.inputs("none").path() is None
with valohai.inputs("late").stream() as file:
    assert file.read() == b"late bytes"
valohai.set_status_detail("half way")
with valohai.logger() as logger:
    logger.log("accuracy", 0.75)
    logger.log("epoch", 7)
    logger.log("_time", "2026-07-01T12:00:00.250Z")
step = valohai.outputs("steps").path("step.txt")
with open(step, "w") as file:
    file.write("live")
valohai.outputs("steps").live_upload("step.txt")
with open(valohai.outputs().path("model.txt"), "w") as file:
    file.write("model")
with valohai.output_properties() as properties:
    properties.add(file="model.txt", properties={"valohai.tags": ["good"], "n": 1})
    properties.add_to_dataset(
        file="model.txt", dataset_version=properties.dataset_version_uri("models", "v1")
    )
about = valohai.execution().config
assert (about.id, about.counter, about.title) == (os.environ["VH_EXECUTION_ID"], 1, None), about
group = valohai.distributed
if "VH_DIST_MEMBER_ID" in os.environ:
    assert group.is_distributed_task() is True
    assert (group.group_name, group.member_id, group.required_count) == ("gang", "10", 3)
    assert (group.rank, group.me().is_master, group.master().member_id) == (2, False, "2")
    assert [each.rank for each in group.members()] == [1, 0, 2]
    assert group.master().primary_local_ip == "10.0.0.2"
    assert group.master().exposed_ports == {"1234/tcp": "30123"}
    assert group.master().job_id == "exec-run-2"
    assert os.environ["VH_DIST_MEMBER_INDEX"] == "2"
else:
    assert group.is_distributed_task() is False
print("all is well")
"""


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the package and what it needs."""
    folder = tmp_path_factory.mktemp("shared") / "packages"
    client = [str(ROOT / ".tools/bin/pip"), "install", "--quiet", "--target", str(folder), UTILS]
    try:
        done = subprocess.run(
            client, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX, check=False
        )
        problem = "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        pytest.skip(f"{UTILS} cannot be had: {problem[:200]}")
    for name, content in (("a.txt", "a"), ("x/b.txt", "b")):
        (folder.parent / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.parent / "images" / name).write_text(content, encoding="utf-8")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    return folder


@pytest.fixture
def web() -> Iterator[str]:
    """Serve one file, and give its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"late bytes")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/late.txt"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def agent_changes(packages: Path) -> dict[str, str]:
    return {"RUNYARD_SHARED_FOLDERS": str(packages.parent)}


def parameters() -> list[ParameterValue]:
    values = {"epochs": 7, "rate": 0.25, "names": ["a", "b"], "flag": True}
    return [
        ParameterValue(name=name, value=ParseDict(value, Value()))  # type: ignore[arg-type]
        for name, value in values.items()
    ]


def gang() -> Distributed:
    """Give a group whose members do not sort as texts do."""
    group = Distributed(group_name="gang", member_id="10", required_count=3)
    for member_id in ("9", "2", "10"):
        member = group.members.add(
            member_id=member_id, identity=f"node-{member_id}", run_id=f"run-{member_id}"
        )
        member.local_ips.append(f"10.0.0.{member_id}")
        member.exposed_ports["1234/tcp"] = "30123"
        member.announced_at.GetCurrentTime()
    return group


async def check(yard: ScriptedYard, packages: Path, web: str, **spec: Any) -> None:
    shared = packages.parent
    grant = yard.scheduler.grant(
        "export PYTHONPATH=/packages",
        "python3 /packages/program.py",
        parameters=parameters(),
        mounts=[Mount(source=str(packages), destination="/packages")],
        environment_variables=[EnvironmentVariable(name="VH_EXPOSE_PORTS", value="8080")],
        inputs=[
            Input(name="images", uris=[f"file://{shared}/images/**.txt"], keep_directories="suffix"),
            Input(name="late", uris=[web], on_demand=True),
            Input(name="none"),
        ],
        **spec,
    )

    finished = (await yard.finished(grant, 120)).finished

    shown = yard.ledger.lines(grant, LogStream.LOG_STREAM_STDOUT, LogStream.LOG_STREAM_STDERR)
    assert finished.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED, shown
    assert shown[-1] == "all is well", shown
    assert yard.ledger.points(grant) == [("accuracy", 0.75), ("epoch", 7.0)]
    assert yard.ledger.point_times(grant) == [1_782_907_200_250] * 2
    assert [(file.path, file.sha256) for file in finished.outputs] == [
        ("model.txt", hashlib.sha256(b"model").hexdigest()),
        ("steps/step.txt", hashlib.sha256(b"live").hexdigest()),
    ]
    assert [report.status_detail for report in yard.scheduler.of(grant, "status_detail")] == ["half way"]
    [request] = yard.artifacts.described
    [described] = request.outputs
    assert MessageToDict(described.metadata) == {
        "valohai.tags": ["good"], "n": 1.0, "valohai.dataset-versions": ["dataset://models/v1"],
    }  # fmt: skip
    environment = (await yard.scheduler.report(grant, "environment_captured")).environment_captured
    [mounted] = environment.mounts
    assert (mounted.destination, len(mounted.fingerprint)) == ("/packages", 64)
    [fetched] = [report.input_fetched for report in yard.scheduler.of(grant, "input_fetched")]
    assert (fetched.input, fetched.file.uri) == ("late", web)
    assert fetched.file.sha256 == hashlib.sha256(b"late bytes").hexdigest()
    told = yard.ledger.lines(grant, LogStream.LOG_STREAM_STATUS)
    assert any(line.startswith("VH_EXPOSE_PORTS is not heeded: ") for line in told)
    assert any("fetched on demand" in line for line in told)


async def test_code_with_the_real_utils_runs_as_a_process(
    yard: ScriptedYard, packages: Path, web: str
) -> None:
    await check(yard, packages, web, distributed=gang())


async def test_code_with_the_real_utils_runs_in_a_container(
    yard: ScriptedYard, packages: Path, web: str, test_image: str
) -> None:
    await check(yard, packages, web, executor=Executor.EXECUTOR_DOCKER, image=test_image)
