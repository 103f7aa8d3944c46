"""What a step becomes when somebody asks to run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runyard.run.v1.types_pb2 import Executor, OnLost
from runyard_core.errors import InvalidInput, NotFound
from runyard_runspec import Config, RunOptions, build_run_spec, find_config, parse_config, read_config

from .a_step import CODE, TEXT, build, config, refusal

__all__ = ["config"]


def test_defaults_fill_the_commands(config: Config) -> None:
    spec = build(config)
    assert list(spec.command_lines) == [
        "#!/bin/bash",
        "python train.py --epochs=5 --rate=0.1 '--title=a b' --mode=fast --fast --slow=no --names=a,b",
        "echo 'a b' --epochs=5 ${HOME} {unknown}",
    ]


def test_rest_of_the_step_is_in_the_specification(config: Config) -> None:
    spec = build(config)
    assert (spec.step, spec.image, spec.executor) == ("train", "python:3.11", Executor.EXECUTOR_AUTO)
    assert spec.time_limit_seconds == 5400
    assert spec.no_output_timeout_seconds == 90
    assert spec.stop_condition == "accuracy > 0.9"
    assert spec.on_lost == OnLost.ON_LOST_WAIT
    assert (spec.resources.gpu_count, spec.resources.cpu_millicores_max) == (2, 2000)
    assert spec.resources.memory_bytes_max == 1_000_000_000
    assert [(each.name, each.value) for each in spec.environment_variables] == [("MODE", "x")]
    assert spec.inputs[0].filename == "train.npz"
    assert spec.inputs[0].keep_directories == "suffix"
    assert [each.on_demand for each in spec.inputs] == [False, True]
    assert (list(spec.inputs[0].uris), list(spec.inputs[1].uris)) == (["datum://0123456789abcdef"], [])
    assert [(each.source, each.destination, each.type) for each in spec.mounts] == [
        ("/mnt/sets", "/sets", ""), ("nas:/export", "/nfs", "nfs"),
    ]  # fmt: skip
    assert dict(spec.mounts[1].options) == {"vers": "4.2"}
    assert spec.code == CODE


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"parameters": {"epoch": 1}}, "UNKNOWN_PARAMETER"),
        ({"parameters": {"epochs": "abc"}}, "PARAMETER_WRONG_TYPE"),
        ({"parameters": {"epochs": ""}}, "PARAMETER_WRONG_TYPE"),
        ({"parameters": {"epochs": "1.5"}}, "PARAMETER_WRONG_TYPE"),
        ({"parameters": {"epochs": True}}, "PARAMETER_WRONG_TYPE"),
        ({"parameters": {"epochs": ["1"]}}, "PARAMETER_WRONG_TYPE"),
        ({"parameters": {"seed": "9" * 17}}, "PARAMETER_WRONG_TYPE"),
        ({"parameters": {"rate": "nan"}}, "PARAMETER_WRONG_TYPE"),
        ({"parameters": {"rate": "1e999"}}, "PARAMETER_WRONG_TYPE"),
        ({"parameters": {"fast": "maybe"}}, "PARAMETER_WRONG_TYPE"),
        ({"parameters": {"epochs": "101"}}, "PARAMETER_NOT_ALLOWED"),
        ({"parameters": {"epochs": "-1"}}, "PARAMETER_NOT_ALLOWED"),
        ({"parameters": {"mode": "slow"}}, "PARAMETER_NOT_ALLOWED"),
        ({"parameters": {"epochs": None}}, "MISSING_PARAMETER"),
        ({"step": "strict", "parameters": {"epochs": 1}}, "MISSING_ENVIRONMENT_VARIABLE"),
        ({"step": "strict", "options": RunOptions(variables={"KEY": "1"})}, "MISSING_PARAMETER"),
        ({"inputs": {"dta": ["s3://a/b"]}}, "UNKNOWN_INPUT"),
        ({"inputs": {"data": []}}, "MISSING_INPUT"),
        ({"inputs": {"data": ["train.npz"]}}, "BAD_INPUT_URI"),
        ({"inputs": {"data": ["gs://bucket/x"]}}, "BAD_INPUT_URI"),
        ({"inputs": {"data": ["datum://a/b"]}}, "BAD_INPUT_URI"),
        ({"inputs": {"data": ["datum://-x"]}}, "BAD_INPUT_URI"),
        ({"inputs": {"data": ["dataset://images"]}}, "BAD_INPUT_URI"),
        ({"inputs": {"data": ["model://resnet/newest"]}}, "BAD_INPUT_URI"),
        ({"options": RunOptions(variables={"A B": "1"})}, "BAD_ENVIRONMENT_VARIABLE"),
        ({"options": RunOptions(variables={"VH_GPUS": "many"})}, "BAD_RESOURCES"),
        ({"options": RunOptions(variables={"VH_CPU_LIMIT": "many"})}, "BAD_RESOURCES"),
    ],
)
def test_what_does_not_fit_is_refused(config: Config, asked: dict[str, object], code: str) -> None:
    assert refusal(config, **asked).code == code


def test_messages_say_where_what_and_what_next(config: Config) -> None:
    missing = refusal(config, step="strict", options=RunOptions(variables={"KEY": "1"}))
    assert missing.message == (
        "valohai.yaml:40: parameter epochs of step strict has no default: give one with --epochs (integer)"
    )
    wrong = refusal(config, parameters={"epochs": "101"})
    assert wrong.message == "command line: parameter epochs may not be '101': want integer, 0 to 100"
    given_all = RunOptions(variables={"KEY": "1"})
    no_input = refusal(config, step="strict", parameters={"epochs": 1}, options=given_all)
    assert no_input.message == (
        "valohai.yaml:39: input data of step strict has no default: give one with --input data=URI"
    )
    emptied = refusal(config, inputs={"data": []})
    assert emptied.message == (
        "valohai.yaml:10: input data of step train is not optional: "
        "give one with --input data=URI, or leave it out for its default"
    )


def test_unknown_step_names_the_closest(config: Config) -> None:
    with pytest.raises(NotFound, match="did you mean 'train'") as caught:
        build(config, step="trian")
    assert caught.value.code == "UNKNOWN_STEP"


@pytest.mark.parametrize(("name", "what"), [("many", "a task"), ("served", "an endpoint")])
def test_what_is_not_a_step_is_not_run_as_one(name: str, what: str) -> None:
    text = (
        "- step: {name: s, image: x, command: x, parameters: [{name: n}]}\n"
        "- task: {name: many, step: s, parameters: [{name: n, style: multiple, rules: {items: [1, 2]}}]}\n"
        "- endpoint: {name: served, image: x, server-command: x}\n"
    )
    with pytest.raises(NotFound, match=f"'{name}' is {what}, and") as caught:
        build(parse_config(text), step=name)
    assert caught.value.code == "NOT_A_STEP"


def test_a_stop_condition_that_no_agent_reads_is_refused_before_it_is_queued() -> None:
    text = "- step:\n    name: s\n    image: x\n    command: x\n    stop-condition: exit() or loss < 1\n"
    with pytest.raises(InvalidInput, match=r"^valohai.yaml:1: step s: its stop-condition") as caught:
        build(parse_config(text), step="s")
    assert caught.value.code == "STOP_CONDITION_INVALID"


def test_options_replace_what_the_step_says(config: Config) -> None:
    options = RunOptions(
        image="other:1",
        executor=Executor.EXECUTOR_PROCESS,
        gpu_count=0,
        priority=7,
        attempts_max=3,
        variables={"MODE": "", "NEW": "1"},
        default_requirements_path="requirements.txt",
        time_limit_seconds=0,
    )
    spec = build(config, options=options)
    assert (spec.image, spec.executor, spec.priority) == ("other:1", Executor.EXECUTOR_PROCESS, 7)
    assert (spec.resources.gpu_count, spec.time_limit_seconds, spec.attempts_max) == (0, 0, 3)
    assert {each.name: each.value for each in spec.environment_variables} == {"MODE": "", "NEW": "1"}
    assert spec.requirements_path == "requirements.txt"


def test_step_names_its_requirements_file_or_none(config: Config) -> None:
    for value in ("cpu/requirements.txt", ""):
        options = RunOptions(
            variables={"RUNYARD_REQUIREMENTS": value}, default_requirements_path="requirements.txt"
        )
        assert build(config, options=options).requirements_path == value


def test_variable_of_the_file_format_asks_for_gpus(config: Config) -> None:
    assert build(config, options=RunOptions(variables={"VH_GPUS": "4"})).resources.gpu_count == 4


@pytest.mark.parametrize(("limit", "millicores"), [("2", 2000), ("0.5", 500), ("0,2,4", 3000)])
def test_variable_of_the_file_format_limits_cpus(config: Config, limit: str, millicores: int) -> None:
    options = RunOptions(variables={"VH_CPU_LIMIT": limit})
    assert build(config, options=options).resources.cpu_millicores_max == millicores


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("resources: {cpu: {max: .inf}}", "BAD_RESOURCES"),
        ("resources: {cpu: {max: -1}}", "BAD_RESOURCES"),
        ("resources: {memory: {max: .nan}}", "BAD_RESOURCES"),
        (f"resources: {{memory: {{max: {10**30}}}}}", "BAD_RESOURCES"),
        ("environment-variables: [{name: A B, default: x}]", "BAD_ENVIRONMENT_VARIABLE"),
        ("environment-variables: [{name: A=B}]", "BAD_ENVIRONMENT_VARIABLE"),
    ],
)
def test_what_no_run_can_have_is_refused_with_its_line(line: str, code: str) -> None:
    text = f"- step:\n    name: s\n    image: x\n    command: x\n    {line}\n"
    with pytest.raises(InvalidInput, match=r"^valohai.yaml:[15]: ") as caught:
        build(parse_config(text), step="s")
    assert caught.value.code == code


def test_a_limit_below_a_second_is_still_one() -> None:
    text = "- step: {name: s, image: x, command: x, time-limit: 0.4s, no-output-timeout: 1.5s}\n"
    spec = build(parse_config(text), step="s")
    assert (spec.time_limit_seconds, spec.no_output_timeout_seconds) == (1, 2)


def test_several_references_are_kept_in_order(config: Config) -> None:
    uris = [
        *("https://example.org/a", "file:///data/b", "s3://bucket/c/**.jpg", "datum://" + "0" * 64),
        *("datum://newest-model", "dataset://images/v3", "dataset://images/newest", "model://resnet/12"),
    ]
    assert list(build(config, inputs={"data": uris}).inputs[0].uris) == uris


def test_a_folder_without_a_file_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound) as caught:
        find_config(Path())
    assert caught.value.code == "NO_CONFIG"
    assert caught.value.message.startswith(f"no valohai.yaml or runyard.yaml in {tmp_path}: ")


def test_own_name_of_the_file_counts_first(tmp_path: Path) -> None:
    (tmp_path / "valohai.yaml").write_text(TEXT)
    assert find_config(tmp_path).name == "valohai.yaml"
    (tmp_path / "runyard.yaml").write_text(TEXT)
    assert find_config(tmp_path).name == "runyard.yaml"
    assert list(read_config(find_config(tmp_path)).steps) == ["train", "strict"]


@pytest.mark.parametrize(
    ("line", "asked", "meant"),
    [
        ("", None, OnLost.ON_LOST_WAIT),
        ("autorestart: false", None, OnLost.ON_LOST_WAIT),
        ("autorestart: true", None, OnLost.ON_LOST_REQUEUE),
        ("autorestart: true", OnLost.ON_LOST_WAIT, OnLost.ON_LOST_WAIT),
        ("", OnLost.ON_LOST_REQUEUE, OnLost.ON_LOST_REQUEUE),
    ],
)
def test_a_step_that_restarts_is_tried_again_elsewhere_unless_asked_otherwise(
    line: str, asked: OnLost.ValueType | None, meant: OnLost.ValueType
) -> None:
    config = parse_config(f"- step:\n    name: a\n    image: b\n    command: c\n    {line}\n")
    options = RunOptions(on_lost=asked)
    spec = build_run_spec(config, "a", parameters={}, inputs={}, code=CODE, options=options)
    assert spec.on_lost == meant
