"""What a program is told about its run: the files of the config folder, and variables (the run contract)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path, PurePosixPath

from google.protobuf.struct_pb2 import Struct, Value

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard.run.v1.types_pb2 import CodeRef, Hardware, Input, InputFile
from runyard_agent.domain.block_yaml import block_yaml
from runyard_agent.domain.distributed import distributed_config, distributed_variables
from runyard_contracts.ids import deterministic_id

# How persons are named outside the services that have their keys: who, and what only a key opens.
_SEALED = re.compile(r"~([A-Za-z0-9_-]{16})\.[A-Za-z0-9_-]+~")

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


@dataclass(frozen=True, slots=True)
class Directories:
    """Where the program finds its folders, in its own view of the file system."""

    repository: str = "/valohai/repository"
    inputs: str = "/valohai/inputs"
    outputs: str = "/valohai/outputs"
    config: str = "/valohai/config"

    @classmethod
    def below(cls, directory: Path) -> Directories:
        """Give the folders of a process without a private view: those below the attempt's own folder."""
        return cls(*(str(directory / name) for name in ("repository", "inputs", "outputs", "config")))


IN_CONTAINER = Directories()


def write(
    config_dir: Path,
    grant: LeaseGrant,
    inputs: Sequence[Input],
    directories: Directories = IN_CONTAINER,
    *,
    hardware: Hardware | None = None,
    calls_url: str = "",
) -> None:
    """Write all config files, each as JSON and as YAML.

    Args:
        config_dir: where to.
        grant: the run.
        inputs: those that were fetched.
        directories: where the program sees its folders.
        hardware: what it runs on, as far as that is known.
        calls_url: address of the agent's answers to the program; empty when it cannot be reached.
    """
    config_dir.mkdir(parents=True, exist_ok=True)
    files: dict[str, Json] = {
        "execution": _execution(grant, hardware or Hardware()),
        "inputs": {one.name: _input(grant, one, directories) for one in inputs},
        "parameters": parameters(grant),
        "runtime": _runtime(grant),
        "api": _api(calls_url),
    }
    if grant.HasField("distributed"):
        files["distributed"] = distributed_config(grant.distributed)
    for name, content in files.items():
        (config_dir / f"{name}.json").write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (config_dir / f"{name}.yaml").write_text(block_yaml(content), encoding="utf-8")


def variables(grant: LeaseGrant, directories: Directories = IN_CONTAINER) -> dict[str, str]:
    """Give the variables of a run: secrets, what was asked for, and the contract's, which go before all."""
    spec = grant.spec
    asked = {variable.name: variable.value for variable in spec.environment_variables}
    gpu_uuids = ",".join(grant.gpu_uuids)
    fixed = {
        "VH_REPOSITORY_DIR": directories.repository,
        "VH_INPUTS_DIR": directories.inputs,
        "VH_OUTPUTS_DIR": directories.outputs,
        "VH_CONFIG_DIR": directories.config,
        # Its presence is how a program knows that it runs in a yard.
        "VH_JOB_ID": f"exec-{grant.run_id}",
        "VH_EXECUTION_ID": grant.run_id,
        "VH_PROJECT_ID": grant.project,
        "VH_GPUS": str(len(grant.gpu_uuids)),
        "RUNYARD_RUN_ID": grant.run_id,
        "RUNYARD_ATTEMPT": str(grant.attempt),
        # Also when empty: a run without GPUs must not find those of another run.
        "CUDA_VISIBLE_DEVICES": gpu_uuids,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    if grant.traceparent:
        fixed["TRACEPARENT"] = grant.traceparent
    if grant.HasField("distributed"):
        fixed.update(distributed_variables(grant.distributed))
    return {"PYTHONUNBUFFERED": "1", **secret_variables(grant), **asked, **fixed}


def secret_variables(grant: LeaseGrant) -> dict[str, str]:
    """Give the secrets of the project."""
    return {secret.name: secret.value for secret in grant.secrets}


def parameters(grant: LeaseGrant) -> dict[str, Json]:
    """Give the parameters with their values; the wire does not tell 1 from 1.0, but the step's type does."""
    return {
        each.name: _with_point(_plain(each.value)) if each.is_float else _plain(each.value)
        for each in grant.spec.parameters
    }


def _execution(grant: LeaseGrant, hardware: Hardware) -> dict[str, Json]:
    """Give what is known; null is said where the contract has a name for what nobody knows."""
    spec = grant.spec
    creator_id, creator_name = _creator_of(grant.submitted_by)
    queued_at = grant.queued_at.ToDatetime(UTC).isoformat() if grant.HasField("queued_at") else None
    return {
        "valohai.commit-identifier": _commit_of(spec.code),
        "valohai.creator-email": None,
        "valohai.creator-id": creator_id,
        "valohai.creator-name": creator_name,
        # What the contract calls an environment is a kind of machine; here it is the node itself.
        "valohai.environment-id": hardware.node_id or None,
        "valohai.environment-name": hardware.hostname or hardware.node_id or None,
        "valohai.environment-slug": hardware.node_id or None,
        "valohai.execution-counter": grant.number,
        # A run is queued as soon as it is there.
        "valohai.execution-ctime": queued_at,
        "valohai.execution-duration": None,
        "valohai.execution-id": grant.run_id,
        "valohai.execution-image": spec.image or None,
        "valohai.execution-qtime": queued_at,
        "valohai.execution-status": "created",
        "valohai.execution-step": spec.step,
        "valohai.execution-tags": list(grant.tags),
        "valohai.execution-title": grant.title or None,
        "valohai.project-id": grant.project,
        "valohai.project-name": grant.project,
    }


def _creator_of(submitted_by: str) -> tuple[str | None, str | None]:
    """Give id and name of who asked. Of a sealed person a node knows a pseudonym, and no name."""
    who = submitted_by.partition(":")[2] or submitted_by
    if (sealed := _SEALED.fullmatch(who)) is not None:
        return sealed[1], None
    return submitted_by or None, who or None


def _commit_of(code: CodeRef) -> str | None:
    """Give the commit, or the tree after "~", the contract's mark for code that is no commit's."""
    if code.git_commit and not code.dirty:
        return code.git_commit
    return f"~{code.tree_sha256}" if code.tree_sha256 else code.git_commit or None


def _api(calls_url: str) -> Json:
    """Give each call as the arguments of an HTTP request."""
    if not calls_url:
        return {}
    return {
        "set_status_detail": {"method": "POST", "url": f"{calls_url}/status-detail", "headers": {}},
        "input_request": {"method": "GET", "url": f"{calls_url}/inputs", "headers": {}},
    }


def input_id(grant: LeaseGrant, name: str) -> str:
    """Give the id by which a program asks for the files of an input that is fetched on demand."""
    return deterministic_id("input", grant.run_id, name)


def _input(grant: LeaseGrant, one: Input, directories: Directories) -> Json:
    files = [_input_file(one, file, directories) for file in one.files]
    # Without an id a program does not ask: everything is there.
    return {"input_id": input_id(grant, one.name), "files": files} if one.on_demand else {"files": files}


def _input_file(one: Input, file: InputFile, directories: Directories) -> Json:
    described: dict[str, Json] = {
        "name": PurePosixPath(file.path).name,
        "uri": file.resolved_uri or file.uri,
        "size": file.size_bytes,
        "checksums": {"sha256": file.sha256} if file.sha256 else {},
        "metadata": [_plain_struct(file.properties)] if file.properties.fields else [],
    }
    if not one.on_demand:
        described["path"] = f"{directories.inputs}/{one.name}/{file.path}"
    if file.sha256:
        described["datum_id"] = file.sha256
    return described


def _runtime(grant: LeaseGrant) -> Json:
    return {
        "attempt": grant.attempt,
        "gpu_uuids": list(grant.gpu_uuids),
        "gpu_count": len(grant.gpu_uuids),
        "memory_bytes_max": grant.spec.resources.memory_bytes_max,
        "cpu_millicores_max": grant.spec.resources.cpu_millicores_max,
        "time_limit_seconds": grant.spec.time_limit_seconds,
    }


def _plain(value: Value) -> Json:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "struct_value":
            return _plain_struct(value.struct_value)
        case _:
            return None


def _with_point(value: Json) -> Json:
    match value:
        case bool() | str():
            return value
        case int():
            return float(value)
        case list():
            return [_with_point(item) for item in value]
        case _:
            return value


def _plain_struct(struct: Struct) -> dict[str, Json]:
    return {name: _plain(item) for name, item in struct.fields.items()}
