"""From a step and what somebody asked for to the specification that is queued, recorded and run again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.struct_pb2 import ListValue, NullValue
from google.protobuf.struct_pb2 import Value as JsonValue

from runyard.run.v1.types_pb2 import (
    CodeRef,
    EnvironmentVariable,
    Executor,
    Mount,
    OnLost,
    ParameterValue,
    Resources,
    RunSpec,
)
from runyard_contracts import agent_controls
from runyard_contracts.stop_condition import parse_stop_condition
from runyard_core.errors import InvalidInput
from runyard_runspec.config import Config, Step
from runyard_runspec.inputs import choose_inputs
from runyard_runspec.parameters import Atom, ParameterType, Value, find_parameter
from runyard_runspec.passing import fill_commands

REQUIREMENTS_VARIABLE = "RUNYARD_REQUIREMENTS"
"""Environment variable of a step that names its requirements file; empty for none."""

STOP_GRACE_SECONDS = 30

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GPU_DEVICES = ("nvidia.com/gpu", "gpu")
_COMMAND_LINE = "command line"
_LIMIT_END = 2**63


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What somebody may ask for beside parameters and inputs."""

    image: str = ""
    """Replaces the step's image."""
    executor: Executor.ValueType = Executor.EXECUTOR_AUTO
    """How to start the code."""
    gpu_count: int | None = None
    """GPUs on each node; None for what the step says."""
    priority: int = 0
    """Higher goes first."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables, over the step's defaults."""
    default_requirements_path: str = ""
    """Requirements file used when the step names none: "requirements.txt" where the code has one."""
    on_lost: OnLost.ValueType | None = None
    """What happens when the node is lost; None for the step's "autorestart", which queues again."""
    attempts_max: int = 0
    """Attempts at most, as machines may be lost; 0 for what the yard says."""
    time_limit_seconds: int | None = None
    """None for what the step says; 0 for no limit."""


def build_run_spec(
    config: Config,
    step_name: str,
    *,
    parameters: Mapping[str, Value],
    inputs: Mapping[str, Sequence[str]],
    code: CodeRef,
    options: RunOptions | None = None,
) -> RunSpec:
    """Check what was asked for against a step, and fill its commands in.

    Args:
        config: the file.
        step_name: the step to run.
        parameters: values given by name, as text or typed; an explicit empty, zero or false value is kept,
            and None leaves a parameter out.
        inputs: references given by input name.
        code: the recorded code snapshot.
        options: everything else.

    Raises:
        NotFound: ``UNKNOWN_STEP``.
        InvalidInput: ``UNKNOWN_PARAMETER``, ``MISSING_PARAMETER``, ``PARAMETER_WRONG_TYPE``,
            ``PARAMETER_NOT_ALLOWED``, ``UNKNOWN_INPUT``, ``MISSING_INPUT``, ``BAD_INPUT_URI``,
            ``BAD_ENVIRONMENT_VARIABLE``, ``MISSING_ENVIRONMENT_VARIABLE``, ``BAD_RESOURCES``,
            ``BAD_PASS_AS`` or ``STOP_CONDITION_INVALID``.
    """
    asked = options or RunOptions()
    step = config.step(step_name)
    values = choose_values(config, step, parameters)
    variables = _choose_variables(config, step, asked.variables)
    spec = RunSpec(
        step=step.name,
        command_lines=fill_commands(config, step, values),
        image=asked.image or step.image,
        executor=asked.executor,
        parameters=[
            ParameterValue(name=name, value=_json(value), is_float=_is_float(step, name))
            for name, value in values.items()
        ],
        inputs=choose_inputs(step.inputs, inputs, values, file_name=config.file_name, step=step.name),
        code=code,
        resources=_resources(config, step, asked, variables),
        environment_variables=[
            EnvironmentVariable(name=name, value=value) for name, value in variables.items()
        ],
        requirements_path=variables.get(REQUIREMENTS_VARIABLE, asked.default_requirements_path),
        stop_condition=_stop_condition(config, step),
        on_lost=_on_lost(step) if asked.on_lost is None else asked.on_lost,
        attempts_max=asked.attempts_max,
        priority=asked.priority,
        mounts=[
            Mount(
                source=each.source,
                destination=each.destination,
                type=each.type or "",
                options={str(name): str(value) for name, value in each.options.items() if value is not None},
            )
            for each in step.parsed.mounts
        ],
        stop_grace_seconds=STOP_GRACE_SECONDS,
    )
    limit, silence = step.parsed.time_limit, step.parsed.no_output_timeout
    # Never down to 0, which is no limit at all.
    spec.time_limit_seconds = math.ceil(limit.total_seconds()) if limit else 0
    if asked.time_limit_seconds is not None:
        spec.time_limit_seconds = asked.time_limit_seconds
    spec.no_output_timeout_seconds = math.ceil(silence.total_seconds()) if silence else 0
    return spec


def _stop_condition(config: Config, step: Step) -> str:
    condition = step.parsed.stop_condition or ""
    try:
        if condition:
            parse_stop_condition(condition)
    except ValueError as error:
        raise InvalidInput(
            f"{config.file_name}:{step.line}: step {step.name}: its stop-condition cannot be read: {error}",
            code="STOP_CONDITION_INVALID",
        ) from error
    return condition


def _on_lost(step: Step) -> OnLost.ValueType:
    return OnLost.ON_LOST_REQUEUE if step.parsed.autorestart else OnLost.ON_LOST_WAIT


def choose_values(config: Config, step: Step, given: Mapping[str, Value]) -> dict[str, Value]:
    """Give every declared parameter its value: given, else default, else None; flags are true or false.

    Raises:
        InvalidInput: as ``build_run_spec``.
    """
    for name in given:
        if find_parameter(step.parameters, name) is None:
            names = [parameter.name for parameter in step.parameters]
            has = f"its parameters are {', '.join(names)}" if names else "it has none"
            raise InvalidInput(
                f"{config.file_name}: step {step.name} has no parameter {name!r}: {has}",
                code="UNKNOWN_PARAMETER",
                metadata={"parameter": name},
            )
    values: dict[str, Value] = {}
    for parameter in step.parameters:
        where = f"{config.file_name}:{parameter.line}"
        is_given = parameter.name in given
        value = given[parameter.name] if is_given else parameter.default
        if value is None and parameter.type is ParameterType.FLAG:
            value = False
        if value is None and not parameter.is_optional:
            raise InvalidInput(
                f"{where}: parameter {parameter.name} of step {step.name} has no default: "
                f"give one with --{parameter.name} ({parameter.describe()})",
                code="MISSING_PARAMETER",
                metadata={"parameter": parameter.name},
            )
        values[parameter.name] = parameter.check(value, where if not is_given else _COMMAND_LINE)
    return values


def _choose_variables(config: Config, step: Step, given: Mapping[str, str]) -> dict[str, str]:
    for name, value in given.items():
        if _VARIABLE_NAME.fullmatch(name) is None or "\0" in value:
            raise InvalidInput(
                f"environment variable {name!r}: want letters, digits and _ (--env NAME=VALUE)",
                code="BAD_ENVIRONMENT_VARIABLE",
            )
    chosen: dict[str, str] = {}
    for variable in step.variables:
        if _VARIABLE_NAME.fullmatch(variable.name) is None:
            raise InvalidInput(
                f"{config.file_name}:{variable.line}: environment variable {variable.name!r} of step "
                f"{step.name}: want letters, digits and _",
                code="BAD_ENVIRONMENT_VARIABLE",
            )
        chosen_value: str | None = given.get(variable.name) if variable.name in given else variable.default
        if chosen_value is not None:
            chosen[variable.name] = str(chosen_value)
        elif not variable.is_optional:
            raise InvalidInput(
                f"{config.file_name}:{variable.line}: environment variable {variable.name} of step "
                f"{step.name} has no default: give it with --env {variable.name}=VALUE",
                code="MISSING_ENVIRONMENT_VARIABLE",
                metadata={"variable": variable.name},
            )
    return {**chosen, **given}


def _resources(config: Config, step: Step, asked: RunOptions, variables: Mapping[str, str]) -> Resources:
    declared = step.parsed.resources
    devices = declared.devices.devices or {}
    gpu_count: int | str = next((devices[name] for name in _GPU_DEVICES if name in devices), 0)
    gpu_count = variables.get(agent_controls.GPUS, gpu_count)
    if asked.gpu_count is not None:
        gpu_count = asked.gpu_count
    if not re.fullmatch(r"[0-9]{1,4}", str(gpu_count)):
        raise InvalidInput(
            f"{config.file_name}:{step.line}: step {step.name} cannot have {gpu_count!r} GPUs: "
            "want a whole number from 0 on",
            code="BAD_RESOURCES",
        )
    return Resources(
        gpu_count=int(gpu_count),
        memory_bytes_max=_limit(config, step, "memory", declared.memory.max, 1_000_000),
        cpu_millicores_max=_cpu_millicores_max(config, step, variables),
    )


def _cpu_millicores_max(config: Config, step: Step, variables: Mapping[str, str]) -> int:
    limit = variables.get(agent_controls.CPU_LIMIT, "")
    if not limit:
        return _limit(config, step, "cpu", step.parsed.resources.cpu.max, 1_000)
    try:
        return max(1, int(agent_controls.cpu_count_of(limit) * 1000))
    except ValueError:
        raise InvalidInput(
            f"{config.file_name}:{step.line}: step {step.name} cannot have {agent_controls.CPU_LIMIT} "
            f"{limit!r}: want a number of CPUs, or a list of them",
            code="BAD_RESOURCES",
        ) from None


def _limit(config: Config, step: Step, what: str, declared: float | None, units: int) -> int:
    limit = (declared or 0) * units
    if not 0 <= limit < _LIMIT_END:
        raise InvalidInput(
            f"{config.file_name}:{step.line}: step {step.name} cannot have at most {declared!r} of {what}: "
            "want a number from 0 on",
            code="BAD_RESOURCES",
        )
    return int(limit)


def _is_float(step: Step, name: str) -> bool:
    parameter = find_parameter(step.parameters, name)
    return parameter is not None and parameter.type is ParameterType.FLOAT


def _json(value: Value) -> JsonValue:
    if value is None:
        return JsonValue(null_value=NullValue.NULL_VALUE)
    if isinstance(value, list):
        return JsonValue(list_value=ListValue(values=[_json_atom(atom) for atom in value]))
    return _json_atom(value)


def _json_atom(atom: Atom) -> JsonValue:
    if isinstance(atom, bool):
        return JsonValue(bool_value=atom)
    if isinstance(atom, str):
        return JsonValue(string_value=atom)
    return JsonValue(number_value=atom)
