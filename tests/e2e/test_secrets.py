"""A secret of a project reaches its runs, and nothing that is kept ever holds its value."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from runyard.run.v1.secret_service_pb2 import SetSecretRequest
from runyard.run.v1.secret_service_pb2_grpc import SecretServiceStub
from runyard.run.v1.types_pb2 import CauseCode, Executor, RunSpec
from runyard_contracts.ids import uuid7
from tests.e2e.searching import places_with
from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240), pytest.mark.xdist_group("yard")]

PROJECT = "e2e-secrets"
NAME, VALUE = "DEPLOY_WORD", "xyzzy-plugh-0451"
# The last line comes in two writes, and as one metric line.
PROGRAM = """
import os, sys, time, hashlib, json, urllib.request
word = os.environ["DEPLOY_WORD"]
print("sha256", hashlib.sha256(word.encode()).hexdigest())
print("it is", word, flush=True)
sys.stdout.write("half " + word[:7]); sys.stdout.flush(); time.sleep(0.3)
print(word[7:])
print(json.dumps({"loss": 1.5, "note": word}))
sys.stderr.write("x" * 65530 + word + "\\n")
print(os.environ["URL"])
# Whatever else of a program becomes an event: its status line, its outputs' names, what is said of them.
call = json.loads(open(os.environ["VH_CONFIG_DIR"] + "/api.json").read())["set_status_detail"]
said = json.dumps({"status_detail": "x" * 990 + word}).encode()
urllib.request.urlopen(urllib.request.Request(call["url"], said, call["headers"], method=call["method"]))
os.chdir(os.environ["VH_OUTPUTS_DIR"])
for name in (word + ".txt", "live-" + word):
    open(name, "w").write("nothing")
    described = {word: [word], "valohai.tags": [word], "valohai.alias": "of-" + word}
    open(name + ".metadata.json", "w").write(json.dumps(described))
os.chmod("live-" + word, 0o444)
"""


async def test_a_secret_reaches_its_run_and_nothing_that_is_kept(
    yard: Yard, clients: Clients, tmp_path: Path
) -> None:
    _set(yard, VALUE)
    listed = json.loads(yard.cli("secret", "list", "--project", PROJECT, "--output", "json").stdout)
    assert [each["name"] for each in listed["secrets"]] == [NAME]
    assert listed["secrets"][0]["changed_by"].startswith("user:")
    spec = RunSpec(
        step="x", command_lines=[f"python3 - <<'EOF'\n{PROGRAM}\nEOF"], executor=Executor.EXECUTOR_PROCESS
    )
    spec.environment_variables.add(name="URL", value="https://example.com")
    typed = RunSpec(step="x", command_lines=["true"])
    typed.inputs.add(name="data", uris=[f"https://user:{VALUE}@example.com/"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await clients.submit(typed, PROJECT)
    assert f"the value of secret {NAME}" in str(refused.value.details())
    record = await clients.complete_record((await clients.submit(spec, PROJECT)).run_id)
    assert record.run.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED
    lines = await clients.lines(record.run.run_id)
    assert lines[0] == f"sha256 {_sha256(VALUE)}"
    assert lines[1:] == ["it is ***", "half ***", '{"loss": 1.5, "note": "***"}', "https://example.com"]
    assert record.run.status_detail == "x" * 990 + "***"
    assert sorted(output.path for output in record.run.attempts[-1].outputs) == ["***.txt", "live-***"]
    variables = {each.name: each.value for each in record.environment.variables}
    assert variables[NAME] == ""
    yard.cli("history", "export", str(tmp_path / "export"))
    assert await places_with([VALUE], yard, tmp_path / "export") == []
    assert "forgotten" in yard.cli("secret", "rm", NAME, "--project", PROJECT).stdout
    _check_told(yard)


def _check_told(yard: Yard) -> None:
    """Hold that the log tells who changed which secret, in this order."""
    events = yard.cli("history", "tail", "--stream", f"project-{PROJECT}").stdout.splitlines()
    told = [line for line in events if NAME in line]
    assert ["project.secret_set" in told[0], "project.secret_removed" in told[-1]] == [True, True], told
    assert len(told) == 2
    assert all(" user:" in line for line in told)


@pytest.mark.parametrize(
    ("name", "value"),
    [("VH_WORD", VALUE), ("1ST", VALUE), ("A", "abc"), ("A", "x" * 40_000), ("A", "ab\0cd")],
)
async def test_what_cannot_be_a_secret_is_refused_and_not_repeated(yard: Yard, name: str, value: str) -> None:
    async with yard.channel("scheduler") as channel:
        request = SetSecretRequest(request_id=uuid7(), project=PROJECT, name=name, value=value)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await SecretServiceStub(channel).SetSecret(request, timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert value not in str(refused.value.details())


def _set(yard: Yard, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runyard_cli", "secret", "set", NAME, "--project", PROJECT],
        input=f"{value}\n",
        env={"RUNYARD_HOME": str(yard.home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert value not in done.stdout + done.stderr


def _sha256(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
