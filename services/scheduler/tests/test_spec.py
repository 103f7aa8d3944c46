"""What may be asked to run, and the filter of lists."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runyard.run.v1.types_pb2 import Executor, InputFile, OnLost, RunSpec, RunState
from runyard_core.errors import InvalidInput
from runyard_scheduler.domain.spec import check_request, with_defaults
from runyard_scheduler.run_filter import RunFilter, parse_filter

from .yard import a_spec


def violations_of(change: Callable[[RunSpec], object]) -> set[str]:
    spec = a_spec()
    change(spec)
    with pytest.raises(InvalidInput) as error:
        check_request("digits", spec, "", ())
    assert error.value.code == "INVALID_SPEC"
    return set(error.value.field_violations)


def add_parameter(spec: RunSpec, name: str, value: object) -> None:
    parameter = spec.parameters.add(name=name)
    match value:
        case float() | int():
            parameter.value.number_value = value
        case dict():
            parameter.value.struct_value.update(value)
        case list():
            parameter.value.list_value.extend(value)
        case _:
            parameter.value.string_value = str(value)


def add_two_parameters(spec: RunSpec) -> None:
    add_parameter(spec, "rate", 1)
    add_parameter(spec, "rate", 2)


def set_gpus(spec: RunSpec) -> None:
    spec.resources.gpu_count = -1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda spec: spec.ClearField("step"), "spec.step"),
        (lambda spec: spec.ClearField("command_lines"), "spec.command_lines"),
        (lambda spec: spec.command_lines.__setitem__(0, "  "), "spec.command_lines"),
        (set_gpus, "spec.resources.gpu_count"),
        (lambda spec: setattr(spec, "time_limit_seconds", -5), "spec.time_limit_seconds"),
        (lambda spec: setattr(spec, "stop_grace_seconds", 99_999), "spec.stop_grace_seconds"),
        (lambda spec: setattr(spec, "priority", 2**30), "spec.priority"),
        (lambda spec: setattr(spec, "on_lost", 9), "spec.on_lost"),
        (add_two_parameters, "spec.parameters[1].name"),
        (lambda spec: add_parameter(spec, "", 1), "spec.parameters[0].name"),
        (lambda spec: add_parameter(spec, "rate", float("nan")), "spec.parameters[0].value"),
        (lambda spec: add_parameter(spec, "rate", {"a": 1}), "spec.parameters[0].value"),
        (lambda spec: add_parameter(spec, "rate", [[1]]), "spec.parameters[0].value"),
        (lambda spec: spec.inputs.add(name="data", uris=["ftp://x"]), "spec.inputs[0].uris"),
        (lambda spec: setattr(spec, "attempts_max", -1), "spec.attempts_max"),
        (lambda spec: setattr(spec, "attempts_max", 1_001), "spec.attempts_max"),
        (lambda spec: spec.inputs.add(name="runyard-checkpoints"), "spec.inputs[0].name"),
        (
            lambda spec: spec.inputs.add(name="data", keep_directories="some"),
            "spec.inputs[0].keep_directories",
        ),
        (lambda spec: spec.environment_variables.add(name="A B"), "spec.environment_variables[0]"),
        (lambda spec: spec.environment_variables.add(name="A", value="b\0"), "spec.environment_variables[0]"),
        (lambda spec: setattr(spec.code, "tree_sha256", "abc"), "spec.code.tree_sha256"),
        (lambda spec: setattr(spec, "step", "a\0b"), "spec.step"),
        (lambda spec: spec.command_lines.append("echo \0"), "spec.command_lines"),
        (lambda spec: add_parameter(spec, "rate", "a\0b"), "spec.parameters"),
        (lambda spec: add_parameter(spec, "rate", ["a\0b"]), "spec.parameters"),
        (lambda spec: spec.inputs.add(name="data", uris=["file:///\0"]), "spec.inputs"),
    ],
)
def test_a_wrong_spec_is_refused_by_field(change: Callable[[RunSpec], object], field: str) -> None:
    assert violations_of(change) == {field}


def test_a_variable_may_have_any_value_that_a_program_can_get() -> None:
    spec = a_spec()
    spec.environment_variables.add(name="A_1", value="b = c\n")
    check_request("digits", spec, "", ())


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InvalidInput) as error:
        check_request("digits", RunSpec(), "t" * 2_000, ("",))
    assert set(error.value.field_violations) == {"spec.step", "spec.command_lines", "title", "tags"}
    assert "3 more" in error.value.message
    with pytest.raises(InvalidInput) as error:
        check_request("digits", a_spec(), "\0", ("a", "b\0"))
    assert set(error.value.field_violations) == {"title", "tags"}


@pytest.mark.parametrize("name", ["", "Digits", "a b", "-a", "a" * 64, "a#b"])
def test_a_bad_project_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as error:
        check_request(name, a_spec(), "", ())
    assert error.value.code == "BAD_PROJECT_NAME"


def test_a_spec_over_the_limit_is_refused() -> None:
    with pytest.raises(InvalidInput) as error:
        check_request("digits", a_spec(image="x" * 1_100_000), "", ())
    assert error.value.code == "SPEC_TOO_LARGE"
    assert "at most 1000000): pass long content as an input file" in error.value.message


def test_a_spec_that_names_too_many_input_files_says_how_many() -> None:
    spec = a_spec()
    asked = spec.inputs.add(name="data", uris=["dataset://images/v1"])
    asked.files.extend([InputFile(path="a.jpg", sha256="0" * 64)] * 15_000)
    with pytest.raises(InvalidInput, match="its inputs name 15000 files; pack them") as error:
        check_request("digits", spec, "", ())
    assert error.value.code == "SPEC_TOO_LARGE"


def test_parameters_of_every_allowed_kind_pass() -> None:
    spec = a_spec()
    for index, value in enumerate((1, 0.5, "text", [1.0, "two", True])):
        add_parameter(spec, f"p{index}", value)
    spec.parameters.add(name="left-out")
    check_request("digits", spec, "", ())


def test_defaults_are_written_into_the_record() -> None:
    spec = with_defaults(a_spec())
    assert (spec.executor, spec.on_lost) == (Executor.EXECUTOR_AUTO, OnLost.ON_LOST_WAIT)
    assert (spec.attempts_max, with_defaults(a_spec(attempts_max=3)).attempts_max) == (10, 3)


def test_a_filter_is_read() -> None:
    assert parse_filter("") == RunFilter()
    assert parse_filter('project="x" AND state=RUNNING and step = "a \\"b\\"" AND node=n-1') == RunFilter(
        project="x", state=RunState.RUN_STATE_RUNNING, step='a "b"', node="n-1"
    )
    assert parse_filter("tag=a AND tag=b").tags == ("a", "b")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("colour=red", "UNKNOWN_FILTER_FIELD"),
        ("state=SLEEPING", "BAD_FILTER"),
        ("project", "BAD_FILTER"),
        ("project=a step=b", "BAD_FILTER"),
        ("project=a AND project=b", "BAD_FILTER"),
        ('project="a', "BAD_FILTER"),
        ("project=a AND", "BAD_FILTER"),
        ('step="a\0b"', "BAD_FILTER"),
        ('project=""', "BAD_FILTER"),
        ('project=a AND state=""', "BAD_FILTER"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused(text: str, code: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_filter(text)
    assert error.value.code == code
