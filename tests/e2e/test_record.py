"""What the record of a run holds: as a process, in a container, from our command line and raw stubs."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping

import pytest
from google.protobuf.message import Message

from runyard.record.v1.record_service_pb2 import Record
from runyard.run.v1.scheduler_service_pb2 import SubmitRunRequest
from runyard.run.v1.types_pb2 import CauseCode, Executor, Outcome, RunSpec, RunState
from tests.e2e.yard import TINY, Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(180), pytest.mark.xdist_group("yard")]


def _submitted(yard: Yard, *arguments: str) -> str:
    answer = json.loads(yard.cli("run", "count", *arguments, "--output", "json").stdout)
    run_id = answer["run"]["run_id"]
    assert isinstance(run_id, str)
    return run_id


def _filled(message: Message, prefix: str = "") -> Iterator[str]:
    """Name every field that is set, elements of lists once."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        yield path
        element = value[0] if field.is_repeated and not isinstance(value, Mapping) else value
        if isinstance(element, Message) and not element.DESCRIPTOR.full_name.startswith("google.protobuf"):
            yield from _filled(element, f"{path}.")


BOXES = ("code", "parameters", "hardware", "environment", "cost", "outputs", "logs", "results", "statistics")


def assert_all_boxes(record: Record) -> None:
    assert list(record.missing) == []
    assert record.complete
    filled = set(_filled(record))
    for box in BOXES:
        assert box in filled


async def test_every_box_of_a_process_run_is_filled_from_events(yard: Yard, clients: Clients) -> None:
    pushed = json.loads(yard.cli("put", str(TINY / "valohai.yaml"), "--output", "json").stdout)
    sha256 = pushed["artifact"]["sha256"]
    run_id = _submitted(
        yard, "--executor", "process", "--steps", "4", "--delay-milliseconds", "600", "--label", "",
        "--input", f"words={TINY / 'valohai.yaml'}",
    )  # fmt: skip
    record = await clients.complete_record(run_id)

    assert_all_boxes(record)
    assert record.run.outcome == Outcome.OUTCOME_SUCCEEDED
    assert record.run.cause.exit_code == 0
    assert {p.name for p in record.parameters} >= {"steps", "delay-milliseconds", "exit-code", "label"}
    assert [(d.name, f.sha256) for d in record.datasets for f in d.files] == [("words", sha256)]
    assert record.code.tree_sha256
    assert record.code.file_count == 2
    assert record.hardware.cpu_count > 0
    assert record.environment.executor == Executor.EXECUTOR_PROCESS
    assert record.environment.interpreter.startswith("CPython 3.")
    written = b"model of 4 steps\n" + (TINY / "valohai.yaml").read_bytes()
    assert [(o.name, o.sha256) for o in record.outputs] == [
        ("deep/model.txt", hashlib.sha256(written).hexdigest())
    ]
    assert await clients.lines(run_id) == [
        text for step in range(1, 5)
        for text in (f"step {step} of 4", json.dumps({"step": step, "loss": 1 / step}))
    ]  # fmt: skip
    results = {metric.name: metric for metric in record.results}
    assert (results["loss"].value, results["loss"].point_count, results["loss"].max) == (0.25, 4, 1.0)
    assert {s.name for s in record.statistics} >= {"cpu_millicores", "memory_used_bytes"}


@pytest.mark.docker
async def test_the_same_step_in_docker_and_as_a_process_has_a_record_of_the_same_shape(
    yard: Yard, clients: Clients
) -> None:
    runs = {
        executor: _submitted(yard, "--executor", executor, "--steps", "3", "--delay-milliseconds", "1100")
        for executor in ("docker", "process")
    }
    records = {executor: await clients.complete_record(run_id) for executor, run_id in runs.items()}
    for record in records.values():
        assert_all_boxes(record)
    assert records["docker"].environment.image_id.startswith("sha256:")
    only_docker = {f"environment.{name}" for name in ("image", "image_id", "image_repo_digests", "shell")}
    only_process = {"environment.requirements_sha256", "environment.cached"}
    # What differs by nature: an image has an id, a virtual environment a requirements file; a local
    # interpreter may have no packages at all.
    shapes = {
        executor: {
            path.removeprefix("run.attempts.")
            for path in _filled(record)
            if not path.removeprefix("run.attempts.").startswith(("environment.packages", "run.number"))
        } - only_docker - only_process
        for executor, record in records.items()
    }  # fmt: skip
    assert shapes["docker"] == shapes["process"]
    outputs = [[(o.name, o.sha256) for o in record.outputs] for record in records.values()]
    assert outputs[0] == outputs[1]


async def test_a_program_that_fails_is_a_failed_run_with_its_exit_code_and_its_outputs(
    yard: Yard, clients: Clients
) -> None:
    run_id = _submitted(yard, "--executor", "process", "--exit-code", "3", "--steps", "1")
    record = await clients.complete_record(run_id)
    assert (record.run.outcome, record.run.cause.code) == (
        Outcome.OUTCOME_FAILED,
        CauseCode.CAUSE_CODE_USER_ERROR,
    )
    assert record.run.cause.exit_code == 3
    assert [o.name for o in record.outputs] == ["deep/model.txt"]


async def test_a_stopped_run_ends_as_stopped_and_keeps_what_it_wrote(yard: Yard, clients: Clients) -> None:
    run_id = _submitted(yard, "--executor", "process", "--steps", "1000", "--delay-milliseconds", "100")
    await clients.reached(run_id, RunState.RUN_STATE_RUNNING)
    yard.cli("stop", run_id)
    record = await clients.complete_record(run_id)
    assert record.run.outcome == Outcome.OUTCOME_STOPPED
    assert record.run.cause.code == CauseCode.CAUSE_CODE_STOPPED_BY_USER


async def test_show_logs_outputs_get_trace_and_cost_agree_with_the_record(
    yard: Yard, clients: Clients, tmp_path_factory: pytest.TempPathFactory
) -> None:
    yard.cli("price", "set", "3.60", "--per", "node-hour")
    run_id = _submitted(yard, "--executor", "process", "--steps", "2", "--delay-milliseconds", "1000")
    record = await clients.complete_record(run_id)
    folder = tmp_path_factory.mktemp("got")

    shown = yard.cli("show", run_id).stdout.lower()
    for box in (
        "training code",
        "parameters",
        "dataset",
        "used hardware",
        "environment",
        "experiment cost",
        "model",
        "logs",
        "results",
        "statistics",
    ):
        assert box in shown, f"{box} is not in\n{shown}"
    assert "step 2 of 2" in yard.cli("logs", run_id).stdout
    sha256 = record.outputs[0].sha256
    assert sha256[:12] in yard.cli("outputs", run_id).stdout
    yard.cli("get", f"datum://{sha256}", "-o", str(folder / "model.txt"))
    assert (folder / "model.txt").read_text() == "model of 2 steps\n"
    traced = json.loads(yard.cli("trace", str(folder / "model.txt"), "--output", "json").stdout)
    targets = {(edge["target"]["kind"], edge["target"]["id"]) for edge in traced["edges"]}
    assert ("VERTEX_KIND_RUN", run_id) in targets
    assert ("VERTEX_KIND_CODE", record.code.tree_sha256) in targets
    cost = json.loads(yard.cli("cost", run_id, "--output", "json").stdout)
    assert int(cost["cost"]["micro_usd"]) > 0
    assert cost["cost"]["terms"][0]["event_ids"]
    listed = json.loads(yard.cli("ps", "--output", "json").stdout)
    assert any(run["run_id"] == run_id for run in listed["runs"])
    assert run_id in yard.cli("history", "tail", "--output", "json").stdout
    assert yard.cli("gpus").stdout
    assert yard.cli("gpus", "--node", "nowhere", expect=3).stderr.endswith("[NODE_NOT_FOUND]\n")


async def test_submitting_again_with_the_same_request_id_gives_the_same_run(clients: Clients) -> None:
    spec = RunSpec(step="x", command_lines=["true"], executor=Executor.EXECUTOR_PROCESS)
    request = SubmitRunRequest(request_id=str(uuid.uuid4()), project="e2e", spec=spec)
    first = await clients.scheduler.SubmitRun(request, timeout=20)
    again = await clients.scheduler.SubmitRun(request, timeout=20)
    assert (first.run.run_id, first.run.number, first.position) == (
        again.run.run_id,
        again.run.number,
        again.position,
    )
    await clients.shown(first.run.run_id, first.position)
    # Telemetry of a run that still goes on would come between the questions of other tests.
    await clients.finished(first.run.run_id)
