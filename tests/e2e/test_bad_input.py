"""Everything wrong that a person types or sends: what and where in a line, the right code, no half-done."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from runyard.run.v1.scheduler_service_pb2 import GetRunRequest, ListRunsRequest, SubmitRunRequest
from runyard.run.v1.types_pb2 import CauseCode, Executor, Outcome, RunSpec
from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(120), pytest.mark.xdist_group("yard")]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "cuont"), 2, "count"),
        (("run", "count", "--stepz", "1"), 2, "stepz"),
        (("run", "count", "--steps", "many"), 2, "steps"),
        (("run", "count", "--steps", "-1"), 2, "steps"),
        (("run", "count", "--input", "wrods=datum://" + "0" * 64), 2, "wrods"),
        (("run", "count", "--input", "words=datum://" + "0" * 64), 3, "0000"),
        (("run", "count", "--input", "words=no/such/file"), 2, "no/such/file"),
        (("show", "#999999"), 3, "[RUN_NOT_FOUND]\nA number or `latest` is of this folder's project"),
        (("stop", "ffffffff"), 3, "ffffffff"),
        (("get", "datum://" + "1" * 64), 3, "1111"),
        (("trace", "no-such-file.bin"), 2, "no-such-file.bin"),
        (("trace", "count_steps.py"), 3, "a file of which one byte was changed is another file"),
        (("cost", "no-such-project"), 3, "[PROJECT_NOT_FOUND]"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_wrong_input_gives_one_line_and_its_exit_code(
    yard: Yard, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = yard.cli(*arguments, expect=code)
    assert says in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- step: [broken", "valohai.yaml:"),
        ("- step:\n    name: a\n    image: x\n", "command"),
        ("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" + "".join(
            f"{chr(99 + i)}: &{chr(99 + i)} [{','.join(['*' + chr(98 + i)] * 9)}]\n" for i in range(8)
        ), "valohai.yaml"),
        ("# " + "x" * 2_000_000, "at most"),
    ],
    ids=["broken", "missing-key", "alias-bomb", "oversized"],
)  # fmt: skip
def test_a_wrong_step_file_is_refused_before_anything_is_sent(
    yard: Yard, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "valohai.yaml").write_text(text)
    done = yard.cli("run", "count", folder=tmp_path, expect=2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_a_step_file_says_what_to_do(yard: Yard, tmp_path: Path) -> None:
    assert "valohai.yaml" in yard.cli("run", "count", folder=tmp_path, expect=2).stderr


def test_a_yard_that_is_down_is_exit_4_and_names_the_remedy(tmp_path: Path) -> None:
    assert "runyard up" in Yard(tmp_path).cli("ps", expect=4).stderr


def test_a_price_of_a_machine_that_nobody_knows_is_kept_and_said(yard: Yard) -> None:
    done = yard.cli("price", "set", "1", "--per", "node-hour", "--node", "gpu-nobody")
    assert "no node gpu-nobody is known yet" in done.stderr


async def _refused(call: grpc.aio.UnaryUnaryCall) -> tuple[grpc.StatusCode, str]:  # type: ignore[type-arg]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    status = rpc_status.from_call(refused.value)
    info = error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    return refused.value.code(), info.reason


async def test_grpc_refusals_carry_a_stable_reason(clients: Clients) -> None:
    spec = RunSpec(step="x", command_lines=["true"])
    submit, invalid = clients.scheduler.SubmitRun, grpc.StatusCode.INVALID_ARGUMENT
    assert (await _refused(submit(SubmitRunRequest(project="p", spec=spec), timeout=20)))[0] == invalid
    for request in (
        SubmitRunRequest(request_id="r-1", project="No Good", spec=spec),
        SubmitRunRequest(request_id="r-2", project="p", spec=RunSpec(step="x")),
        SubmitRunRequest(request_id="r-3", project="p"),
    ):
        assert (await _refused(submit(request, timeout=20)))[0] == invalid
    code, reason = await _refused(clients.scheduler.GetRun(GetRunRequest(name="p#99999"), timeout=20))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
    code, reason = await _refused(clients.scheduler.ListRuns(ListRunsRequest(page_token="x"), timeout=20))
    assert (code, reason) == (invalid, "BROKEN_PAGE_TOKEN")


async def test_an_impossible_gpu_request_is_refused_and_says_what_there_is(clients: Clients) -> None:
    spec = RunSpec(step="x", command_lines=["true"])
    spec.resources.gpu_count = 512
    request = SubmitRunRequest(request_id="gpus", project="p", spec=spec)
    code, reason = await _refused(clients.scheduler.SubmitRun(request, timeout=20))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "IMPOSSIBLE_RESOURCES")


@pytest.mark.parametrize(
    ("command", "outcome", "cause"),
    [
        ("mkfifo $VH_OUTPUTS_DIR/pipe; ln -s /etc/hostname $VH_OUTPUTS_DIR/escape", None, None),
        ("no-such-program --at-all", Outcome.OUTCOME_FAILED, CauseCode.CAUSE_CODE_USER_ERROR),
        ("kill -9 $$", Outcome.OUTCOME_FAILED, CauseCode.CAUSE_CODE_USER_ERROR),
    ],
    ids=["odd-outputs", "no-program", "killed"],
)
async def test_an_odd_program_ends_with_a_typed_cause_and_harms_nothing(
    clients: Clients, command: str, outcome: int | None, cause: int | None
) -> None:
    spec = RunSpec(step="odd", command_lines=[command], executor=Executor.EXECUTOR_PROCESS)
    record = await clients.complete_record((await clients.submit(spec)).run_id)
    assert not any("escape" in output.name or "pipe" in output.name for output in record.outputs)
    if outcome is not None:
        assert (record.run.outcome, record.run.cause.code) == (outcome, cause)


async def test_an_input_that_vanished_ends_the_run_with_input_unavailable(clients: Clients) -> None:
    spec = RunSpec(step="odd", command_lines=["true"], executor=Executor.EXECUTOR_PROCESS)
    spec.inputs.add(name="data", uris=["http://127.0.0.1:9/nothing-listens-here"])
    record = await clients.complete_record((await clients.submit(spec)).run_id)
    assert record.run.outcome == Outcome.OUTCOME_FAILED
    assert record.run.cause.code == CauseCode.CAUSE_CODE_INPUT_UNAVAILABLE
    assert "data" in record.run.cause.detail
