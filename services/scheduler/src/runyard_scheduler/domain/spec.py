"""What a request to run something must be before it is queued."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import chain

from google.protobuf.struct_pb2 import Value

from runyard.run.v1.types_pb2 import Executor, Input, OnLost, ParameterValue, RunSpec
from runyard_contracts.ids import is_name, is_sha256
from runyard_core.errors import InvalidInput
from runyard_scheduler.domain.run_state import ATTEMPTS_DEFAULT

SPEC_BYTES_MAX = 1_000_000
"""Largest spec: an event holds 1 MiB with its envelope."""
TITLE_LENGTH_MAX = 1_000
TAG_COUNT_MAX = 100
TAG_LENGTH_MAX = 100
STEP_LENGTH_MAX = 200
PRIORITY_MAX = 1_000_000
RESERVED_INPUTS = "runyard-"
"""Names of inputs that begin so are given by the yard: what earlier attempts stored."""
STOP_GRACE_SECONDS_MAX = 3_600
ATTEMPTS_MAX = 1_000

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URI = re.compile(r"(datum|dataset|model|https?|s3|file)://.+", re.DOTALL)
_ITEM_KINDS = frozenset({"number_value", "string_value", "bool_value"})
_KEEP_DIRECTORIES = frozenset({"", "none", "suffix", "full"})

Violation = tuple[str, str]
"""Path of a field, and what is wrong with it."""


def check_request(project: str, spec: RunSpec, title: str, tags: tuple[str, ...]) -> None:
    """Check what a client asked to run.

    Raises:
        InvalidInput: names every field that is wrong (BAD_PROJECT_NAME, SPEC_TOO_LARGE, INVALID_SPEC).
    """
    if not is_name(project):
        what = "want 1 to 63 of a-z, 0-9 and '-', not starting with '-'"
        raise InvalidInput(
            f"{project!r} cannot name a project: {what}",
            code="BAD_PROJECT_NAME",
            field_violations={"project": what},
        )
    if spec.ByteSize() > SPEC_BYTES_MAX:
        what = f"{spec.ByteSize()} bytes, at most {SPEC_BYTES_MAX}"
        raise InvalidInput(
            f"the spec is too large ({what}): {_smaller(spec)}",
            code="SPEC_TOO_LARGE",
            field_violations={"spec": what},
        )
    violations = dict(chain(_spec(spec), _labels(title, tags), _zero_bytes(spec, title, tags)))
    if violations:
        field, what = next(iter(violations.items()))
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        raise InvalidInput(f"{field}: {what}{more}", code="INVALID_SPEC", field_violations=violations)


def _smaller(spec: RunSpec) -> str:
    """Say what makes a spec smaller: files of its inputs, when they are most of it."""
    files = [file for asked in spec.inputs for file in asked.files]
    if 2 * sum(file.ByteSize() for file in files) > SPEC_BYTES_MAX:
        return f"its inputs name {len(files)} files; pack them into fewer, or mount their folder"
    return "pass long content as an input file"


def with_defaults(spec: RunSpec) -> RunSpec:
    """Give the spec with what was left to us filled in, so that the record says what holds."""
    filled = RunSpec()
    filled.CopyFrom(spec)
    if filled.executor == Executor.EXECUTOR_UNSPECIFIED:
        filled.executor = Executor.EXECUTOR_AUTO
    if filled.on_lost == OnLost.ON_LOST_UNSPECIFIED:
        filled.on_lost = OnLost.ON_LOST_WAIT
    filled.attempts_max = filled.attempts_max or ATTEMPTS_DEFAULT
    return filled


def _spec(spec: RunSpec) -> Iterator[Violation]:
    if not spec.step.strip():
        yield "spec.step", "missing: name the step"
    elif len(spec.step) > STEP_LENGTH_MAX:
        yield "spec.step", f"longer than {STEP_LENGTH_MAX} characters"
    if not any(line.strip() for line in spec.command_lines):
        yield "spec.command_lines", "empty: there is nothing to run"
    yield from _limits(spec)
    yield from _parameters(spec)
    yield from _inputs(spec)
    for index, variable in enumerate(spec.environment_variables):
        if _VARIABLE_NAME.fullmatch(variable.name) is None or "\0" in variable.value:
            yield f"spec.environment_variables[{index}]", f"{variable.name!r} cannot be set as a variable"
    if spec.code.tree_sha256 and not is_sha256(spec.code.tree_sha256):
        yield "spec.code.tree_sha256", "not a SHA-256 in lower-case hexadecimal"


def _zero_bytes(spec: RunSpec, title: str, tags: tuple[str, ...]) -> Iterator[Violation]:
    """Find what no program can be given, and no table can hold."""
    texts = {
        "title": (title,),
        "tags": tags,
        "spec.step": (spec.step,),
        "spec.command_lines": spec.command_lines,
        "spec.image": (spec.image,),
        "spec.requirements_path": (spec.requirements_path,),
        "spec.stop_condition": (spec.stop_condition,),
        "spec.parameters": chain.from_iterable(map(_texts_of, spec.parameters)),
        "spec.inputs": chain.from_iterable((each.name, each.filename, *each.uris) for each in spec.inputs),
        "spec.mounts": chain.from_iterable((each.source, each.destination) for each in spec.mounts),
    }
    for field, given in texts.items():
        if any("\0" in text for text in given):
            yield field, "holds a zero byte: leave it out"


def _texts_of(parameter: ParameterValue) -> Iterator[str]:
    yield parameter.name
    yield parameter.value.string_value
    yield from (item.string_value for item in parameter.value.list_value.values)


def _limits(spec: RunSpec) -> Iterator[Violation]:
    at_least_zero = {
        "spec.resources.gpu_count": spec.resources.gpu_count,
        "spec.resources.memory_bytes_max": spec.resources.memory_bytes_max,
        "spec.resources.cpu_millicores_max": spec.resources.cpu_millicores_max,
        "spec.time_limit_seconds": spec.time_limit_seconds,
        "spec.no_output_timeout_seconds": spec.no_output_timeout_seconds,
        "spec.stop_grace_seconds": spec.stop_grace_seconds,
        "spec.attempts_max": spec.attempts_max,
    }
    for field, value in at_least_zero.items():
        if value < 0:
            yield field, f"{value} is below 0"
    if spec.stop_grace_seconds > STOP_GRACE_SECONDS_MAX:
        yield "spec.stop_grace_seconds", f"{spec.stop_grace_seconds} is over {STOP_GRACE_SECONDS_MAX}"
    if spec.attempts_max > ATTEMPTS_MAX:
        yield "spec.attempts_max", f"{spec.attempts_max} is over {ATTEMPTS_MAX}"
    if abs(spec.priority) > PRIORITY_MAX:
        yield "spec.priority", f"{spec.priority} is not within {PRIORITY_MAX} of 0"
    if spec.executor not in Executor.values():
        yield "spec.executor", f"{spec.executor} is not known"
    if spec.on_lost not in OnLost.values():
        yield "spec.on_lost", f"{spec.on_lost} is not known"


def _parameters(spec: RunSpec) -> Iterator[Violation]:
    seen: set[str] = set()
    for index, parameter in enumerate(spec.parameters):
        field = f"spec.parameters[{index}]"
        if not parameter.name or parameter.name in seen:
            yield f"{field}.name", f"{parameter.name!r} is empty or named twice"
        seen.add(parameter.name)
        if what := _value_violation(parameter):
            yield f"{field}.value", f"parameter {parameter.name!r} {what}"


def _value_violation(parameter: ParameterValue) -> str:
    value = parameter.value
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return "is an object: want a number, string, boolean or a list of them"
    items: list[Value] = list(value.list_value.values) if kind == "list_value" else [value]
    if kind == "list_value" and any(item.WhichOneof("kind") not in _ITEM_KINDS for item in items):
        return "is a list of something else than numbers, strings and booleans"
    numbers = (item.number_value for item in items if item.WhichOneof("kind") == "number_value")
    return "" if all(map(math.isfinite, numbers)) else "is not a finite number"


def _inputs(spec: RunSpec) -> Iterator[Violation]:
    seen: set[str] = set()
    for index, asked in enumerate(spec.inputs):
        field = f"spec.inputs[{index}]"
        if not asked.name or asked.name in seen:
            yield f"{field}.name", f"{asked.name!r} is empty or named twice"
        seen.add(asked.name)
        if asked.name.startswith(RESERVED_INPUTS):
            yield f"{field}.name", f"{asked.name!r}: what begins with {RESERVED_INPUTS!r} is the yard's own"
        yield from _input_content(field, asked)


def _input_content(field: str, asked: Input) -> Iterator[Violation]:
    for uri in asked.uris:
        if _URI.fullmatch(uri) is None:
            yield (
                f"{field}.uris",
                f"{uri!r} is not datum://, dataset://, model://, http(s)://, s3:// or file://",
            )
    if asked.keep_directories not in _KEEP_DIRECTORIES:
        yield f"{field}.keep_directories", f"{asked.keep_directories!r} is not none, suffix or full"
    for file in asked.files:
        if not is_sha256(file.sha256):
            yield f"{field}.files", f"{file.path!r} has no SHA-256"


def _labels(title: str, tags: tuple[str, ...]) -> Iterator[Violation]:
    if len(title) > TITLE_LENGTH_MAX:
        yield "title", f"longer than {TITLE_LENGTH_MAX} characters"
    if len(tags) > TAG_COUNT_MAX:
        yield "tags", f"{len(tags)} tags, at most {TAG_COUNT_MAX}"
    if any(not tag or len(tag) > TAG_LENGTH_MAX for tag in tags):
        yield "tags", f"each has 1 to {TAG_LENGTH_MAX} characters"
