"""The config folder and the variables, as the run contract says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard.run.v1.types_pb2 import Hardware, Input
from runyard_agent import config_files
from runyard_agent.config_files import Directories
from runyard_agent.domain.block_yaml import block_yaml

yaml = pytest.importorskip("yaml")

GRANT = ParseDict(
    {
        "run_id": "0198-run",
        "project": "vision",
        "number": 12,
        "attempt": 2,
        "gpu_uuids": ["GPU-a", "GPU-b"],
        "submitted_by": "user:alice",
        "title": "A: title",
        "tags": ["night"],
        "traceparent": "00-trace",
        "queued_at": "2026-07-01T12:00:00.250Z",
        "spec": {
            "step": "train",
            "image": "pytorch:2",
            "code": {"git_commit": "abc"},
            "parameters": [
                {"name": "epochs", "value": 3},
                {"name": "rate", "value": 1e-5},
                {"name": "weight", "value": 1, "is_float": True},
                {"name": "steps", "value": [1, 0.5], "is_float": True},
                {"name": "unset", "value": None, "is_float": True},
                {"name": "name", "value": "yes"},
                {"name": "empty", "value": ""},
                {"name": "shuffle", "value": False},
                {"name": "layers", "value": [1, 2.5, "x"]},
                {"name": "missing", "value": None},
            ],
            "environment_variables": [
                {"name": "MODE", "value": "fast"},
                {"name": "PYTHONUNBUFFERED", "value": "0"},
                {"name": "VH_JOB_ID", "value": "forged"},
            ],
        },
    },
    LeaseGrant(),
)


def fetched() -> Input:
    one = Input(name="data")
    one.files.add(uri="datum://x", path="sub/a.csv", sha256="ab" * 32, size_bytes=9)
    return one


def test_parameters_keep_explicit_values(tmp_path: Path) -> None:
    config_files.write(tmp_path, GRANT, [])

    written = (tmp_path / "parameters.json").read_text()
    assert '"epochs": 3,' in written
    assert '"weight": 1.0,' in written
    assert json.loads(written) == {
        "epochs": 3,
        "rate": 1e-5,
        "weight": 1.0,
        "steps": [1.0, 0.5],
        "unset": None,
        "name": "yes",
        "empty": "",
        "shuffle": False,
        "layers": [1, 2.5, "x"],
        "missing": None,
    }


def test_inputs_name_their_files_where_the_program_sees_them(tmp_path: Path) -> None:
    config_files.write(tmp_path, GRANT, [fetched(), Input(name="maybe")])

    assert json.loads((tmp_path / "inputs.json").read_text()) == {
        "data": {
            "files": [
                {
                    "name": "a.csv",
                    "path": "/valohai/inputs/data/sub/a.csv",
                    "uri": "datum://x",
                    "size": 9,
                    "checksums": {"sha256": "ab" * 32},
                    "metadata": [],
                    "datum_id": "ab" * 32,
                }
            ]
        },
        "maybe": {"files": []},
    }
    config_files.write(tmp_path, GRANT, [fetched()], Directories.below(Path("/node/run-2")))
    moved = json.loads((tmp_path / "inputs.json").read_text())
    assert moved["data"]["files"][0]["path"] == "/node/run-2/inputs/data/sub/a.csv"


def test_every_file_has_a_yaml_twin_with_the_same_content(tmp_path: Path) -> None:
    config_files.write(tmp_path, GRANT, [fetched(), Input(name="maybe")])

    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {"execution", "inputs", "parameters", "runtime", "api"}
    for name in names:
        twin = yaml.safe_load((tmp_path / f"{name}.yaml").read_text(encoding="utf-8"))
        assert twin == json.loads((tmp_path / f"{name}.json").read_text())


def test_execution_says_all_that_is_known_and_null_for_what_is_not(tmp_path: Path) -> None:
    config_files.write(tmp_path, GRANT, [], hardware=Hardware(node_id="node-1", hostname="gpu.lab"))

    execution = json.loads((tmp_path / "execution.json").read_text())
    assert execution == {
        "valohai.commit-identifier": "abc",
        "valohai.creator-email": None,
        "valohai.creator-id": "user:alice",
        "valohai.creator-name": "alice",
        "valohai.environment-id": "node-1",
        "valohai.environment-name": "gpu.lab",
        "valohai.environment-slug": "node-1",
        "valohai.execution-counter": 12,
        "valohai.execution-ctime": "2026-07-01T12:00:00.250000+00:00",
        "valohai.execution-duration": None,
        "valohai.execution-id": "0198-run",
        "valohai.execution-image": "pytorch:2",
        "valohai.execution-qtime": "2026-07-01T12:00:00.250000+00:00",
        "valohai.execution-status": "created",
        "valohai.execution-step": "train",
        "valohai.execution-tags": ["night"],
        "valohai.execution-title": "A: title",
        "valohai.project-id": "vision",
        "valohai.project-name": "vision",
    }


def test_code_that_differs_from_its_commit_is_named_by_its_tree(tmp_path: Path) -> None:
    grant = LeaseGrant()
    grant.CopyFrom(GRANT)
    grant.spec.code.tree_sha256 = "cd" * 32
    for dirty, named in ((False, "abc"), (True, "~" + "cd" * 32)):
        grant.spec.code.dirty = dirty
        config_files.write(tmp_path, grant, [])
        assert json.loads((tmp_path / "execution.json").read_text())["valohai.commit-identifier"] == named


def test_a_person_that_is_sealed_is_a_pseudonym_without_a_name(tmp_path: Path) -> None:
    grant = LeaseGrant(run_id="r", submitted_by=f"user:~{'a' * 16}.{'b' * 30}~")
    config_files.write(tmp_path, grant, [])
    execution = json.loads((tmp_path / "execution.json").read_text())
    assert (execution["valohai.creator-id"], execution["valohai.creator-name"]) == ("a" * 16, None)


def test_execution_invents_nothing(tmp_path: Path) -> None:
    config_files.write(tmp_path, LeaseGrant(run_id="r", number=1, project="p"), [])

    execution = json.loads((tmp_path / "execution.json").read_text())
    said = {name.removeprefix("valohai.") for name, value in execution.items() if value}
    assert said == {
        "execution-counter", "execution-id", "execution-status", "project-id", "project-name",
    }  # fmt: skip


def test_variables_of_the_contract_cannot_be_overridden_and_others_can() -> None:
    variables = config_files.variables(GRANT)

    assert variables["VH_JOB_ID"] == "exec-0198-run"
    assert variables["VH_INPUTS_DIR"] == "/valohai/inputs"
    assert variables["VH_GPUS"] == "2"
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert variables["PYTHONUNBUFFERED"] == "0"
    assert variables["MODE"] == "fast"
    assert variables["TRACEPARENT"] == "00-trace"


def test_calls_are_offered_only_where_they_can_be_answered(tmp_path: Path) -> None:
    config_files.write(tmp_path, GRANT, [])
    assert json.loads((tmp_path / "api.json").read_text()) == {}
    config_files.write(tmp_path, GRANT, [], calls_url="http://127.0.0.1:1/token")
    api = json.loads((tmp_path / "api.json").read_text())
    assert {name: (call["method"], call["url"]) for name, call in api.items()} == {
        "set_status_detail": ("POST", "http://127.0.0.1:1/token/status-detail"),
        "input_request": ("GET", "http://127.0.0.1:1/token/inputs"),
    }


def test_an_input_on_demand_has_an_id_and_no_paths(tmp_path: Path) -> None:
    one = Input(name="late", on_demand=True)
    one.files.add(uri="https://host/a.txt", path="a.txt")
    config_files.write(tmp_path, GRANT, [one])
    described = json.loads((tmp_path / "inputs.json").read_text())["late"]
    assert described["input_id"] == config_files.input_id(GRANT, "late")
    assert described["files"] == [
        {"name": "a.txt", "uri": "https://host/a.txt", "size": 0, "checksums": {}, "metadata": []}
    ]


def test_a_member_of_a_group_finds_the_others_and_its_rank(tmp_path: Path) -> None:
    grant = LeaseGrant()
    grant.CopyFrom(GRANT)
    group = grant.distributed
    group.group_name, group.member_id, group.required_count = "gang", "9", 3
    for member_id in ("10", "9", "2"):
        member = group.members.add(
            member_id=member_id, identity=f"node-{member_id}", run_id=f"run-{member_id}"
        )
        member.local_ips.append(f"10.0.0.{member_id}")
        member.exposed_ports["1234/tcp"] = "30123"

    config_files.write(tmp_path, grant, [])

    content = json.loads((tmp_path / "distributed.json").read_text())
    assert yaml.safe_load((tmp_path / "distributed.yaml").read_text()) == content
    assert content["config"] == {"group_name": "gang", "member_id": "9", "required_count": 3}
    assert content["self"] == content["members"][1]
    assert content["self"]["network"] == {
        "exposed_ports": {"1234/tcp": "30123"}, "local_ips": ["10.0.0.9"], "public_ips": [],
    }  # fmt: skip
    variables = config_files.variables(grant)
    found = [variables[f"VH_DIST_MEMBER_{name}"] for name in ("ID", "INDEX", "COUNT")]
    assert (found, variables["VH_LOCAL_IP"]) == (["9", "1", "3"], "10.0.0.9")
    group.members[0].member_id = "main"
    assert config_files.variables(grant)["VH_DIST_MEMBER_INDEX"] == "1"


def test_a_run_without_gpus_sees_none() -> None:
    variables = config_files.variables(LeaseGrant(run_id="r"))

    assert (variables["CUDA_VISIBLE_DEVICES"], variables["VH_GPUS"]) == ("", "0")
    assert variables["PYTHONUNBUFFERED"] == "1"


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


# The reader is slow; the values are small. "thorough" does more.
@settings(max_examples=max(30, settings.default.max_examples // 4) if settings.default else 30)
@given(st.dictionaries(st.text(), values, max_size=4))
def test_block_yaml_is_read_back_as_what_was_written(value: dict[str, object]) -> None:
    assert yaml.safe_load(block_yaml(value)) == value  # type: ignore[arg-type]


def test_block_yaml_of_not_a_number() -> None:
    assert math.isnan(yaml.safe_load(block_yaml({"loss": math.nan}))["loss"])
