"""Parameters of a step: what was given, what is kept, and what the commands say of it."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_core.errors import InvalidInput
from runyard_runspec import Config, Value, lint_text, parse_config

from .a_step import build, config, values_of

__all__ = ["config"]


def test_every_declared_parameter_is_in_the_record(config: Config) -> None:
    assert values_of(build(config)) == {
        "epochs": 5.0,
        "rate": 0.1,
        "title": "a b",
        "mode": "fast",
        "fast": True,
        "slow": False,
        "layers": None,
        "names": ["a", "b"],
        "seed": None,
    }


@pytest.mark.parametrize(
    ("name", "given_value", "kept"),
    [
        ("title", "", ""),
        ("epochs", "0", 0),
        ("epochs", 0, 0),
        ("rate", "0", 0.0),
        ("fast", False, False),
        ("fast", "no", False),
        ("names", [], []),
        ("names", [""], [""]),
        ("title", "None", "None"),
        ("title", "007", "007"),
        ("mode", "1", "1"),
        ("layers", ["1", "2"], [1, 2]),
        ("rate", "1e-3", 0.001),
        ("epochs", 5.0, 5),
    ],
)
def test_explicit_value_is_never_lost(config: Config, name: str, given_value: Value, kept: object) -> None:
    assert values_of(build(config, {name: given_value}))[name] == kept


def test_explicit_values_are_in_the_command(config: Config) -> None:
    asked: dict[str, Value] = {"title": "", "epochs": "0", "fast": False, "slow": True, "layers": ["1", "2"]}
    line = build(config, asked).command_lines[1]
    assert shlex.split(line) == [
        "python",
        "train.py",
        "--epochs=0",
        "--rate=0.1",
        "--title=",
        "--mode=fast",
        "--slow=yes",
        "--layers=1",
        "--layers=2",
        "--names=a,b",
    ]


def test_parameter_left_out_leaves_no_placeholder() -> None:
    text = "- step:\n    name: s\n    image: x\n    command: run {parameter-value:a} {parameter:a}\n"
    config = parse_config(text + "    parameters: [{name: a, optional: true}]\n")
    assert list(build(config, step="s").command_lines) == ["run ''"]


def test_a_value_that_is_left_out_is_not_the_default() -> None:
    text = "- step:\n    name: s\n    image: x\n    command: run {parameters} {parameter:n} {source-path}\n"
    text += "    source-path: src\n"
    config = parse_config(text + "    parameters: [{name: n, type: integer, default: 1, optional: true}]\n")
    left_out = build(config, {"n": None}, step="s")
    assert values_of(left_out) == {"n": None}
    assert shlex.split(left_out.command_lines[0]) == ["run", "src"]


def test_an_empty_list_is_a_default() -> None:
    parameters = "[{name: a, multiple: repeat, default: []}, {name: b, multiple: repeat, default: null}]"
    text = f"- step: {{name: s, image: x, command: 'run {{parameters}}', parameters: {parameters}}}\n"
    config = parse_config(text)
    with pytest.raises(InvalidInput, match="parameter b of step s has no default"):
        build(config, step="s")
    spec = build(config, {"b": ["1"]}, step="s")
    assert values_of(spec) == {"a": [], "b": ["1"]}
    assert list(spec.command_lines) == ["run --b=1"]


@pytest.mark.parametrize("kind", ["integer", "float", "string", "flag"])
@pytest.mark.parametrize("default", ["2020-01-01", "{a: 1}", "[1, null]", "[[1]]"])
def test_a_default_that_is_no_value_is_refused_with_its_line(kind: str, default: str) -> None:
    multiple = ", multiple: repeat" if default.startswith("[") and kind != "flag" else ""
    text = ONE_PARAMETER % f"{{name: p, type: {kind}{multiple}, default: {default}}}"
    if (kind, default) == ("string", "2020-01-01"):
        assert list(build(parse_config(text), step="s").command_lines) == ["run --p=2020-01-01"]
        return
    with pytest.raises(InvalidInput, match=r"^valohai.yaml:5: parameter p cannot be ") as caught:
        build(parse_config(text), step="s")
    assert caught.value.code == "PARAMETER_WRONG_TYPE"


@pytest.mark.parametrize("text", ["a\0b", "a\udce9b"])
def test_a_text_that_no_program_can_be_given_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        build(A_TEXT, {"p": text}, step="s")
    assert caught.value.code == "PARAMETER_WRONG_TYPE"
    assert caught.value.message.encode()


@pytest.mark.parametrize(
    "pass_as",
    [
        *("--p={foo}", '--p={"a":{v}}', "--p={v:.2f}", "--p={v", "--p={v.x}"),
        *("--p={v:>9999999999}", "--p={v:{name}}"),
    ],
)
def test_a_pass_as_that_cannot_be_filled_in_is_refused_where_it_is_used(pass_as: str) -> None:
    text = ONE_PARAMETER % f"{{name: p, default: a, pass-as: '{pass_as}'}}"
    with pytest.raises(InvalidInput, match=r"^valohai.yaml:5: parameter p of step s: its pass-as ") as caught:
        build(parse_config(text), step="s")
    assert caught.value.code == "BAD_PASS_AS"
    [finding] = lint_text(text)
    assert (finding.line, finding.code) == (5, "BAD_PASS_AS")
    unused = parse_config(text.replace("{parameters}", "{parameter-value:p}"))
    assert list(build(unused, step="s").command_lines) == ["run a"]


def test_braces_of_a_pass_as_are_written_twice() -> None:
    text = ONE_PARAMETER % '{name: p, default: a, pass-as: \'--p={{"{name}":"{v}"}}\'}'
    assert shlex.split(build(parse_config(text), step="s").command_lines[0]) == ["run", '--p={"p":"a"}']
    assert lint_text(text) == []


def test_a_float_is_told_from_an_integer_also_when_it_is_whole() -> None:
    parameters = "[{name: n, type: integer, default: 1}, {name: x, type: float, default: 1}]"
    text = f"- step: {{name: s, image: x, command: x, parameters: {parameters}}}\n"
    spec = build(parse_config(text), step="s")
    assert [(each.name, each.is_float) for each in spec.parameters] == [("n", False), ("x", True)]


def test_default_that_breaks_its_own_rules_is_refused_with_its_line() -> None:
    text = (
        "- step:\n    name: s\n    image: x\n    command: x\n    parameters:\n"
        "      - {name: n, type: integer, default: 9, max: 5}\n"
    )
    with pytest.raises(InvalidInput, match=r"^valohai.yaml:6: parameter n may not be 9"):
        build(parse_config(text), step="s")


def test_parameters_fill_input_references() -> None:
    text = (
        "- step:\n    name: s\n    image: x\n    command: x\n    parameters: [{name: day, default: mon}]\n"
        "    inputs: [{name: data, default: 's3://bucket/{parameter:day}.npz'}]\n"
    )
    config = parse_config(text)
    assert list(build(config, {"day": "tue"}, step="s").inputs[0].uris) == ["s3://bucket/tue.npz"]


@pytest.mark.parametrize(
    ("parameter", "what"),
    [
        ("{name: day, optional: true}", "has no value"),
        ("{name: day, multiple: repeat, default: [a]}", "list"),
    ],
)
def test_a_reference_is_filled_by_one_value_or_refused(parameter: str, what: str) -> None:
    text = (
        f"- step:\n    name: s\n    image: x\n    command: x\n    parameters: [{parameter}]\n"
        "    inputs: [{name: data, default: 's3://bucket/{parameter:day}.npz'}]\n"
    )
    with pytest.raises(InvalidInput, match=rf"^valohai.yaml:6: input data: .*{what}") as caught:
        build(parse_config(text), step="s")
    assert caught.value.code == "BAD_INPUT_URI"


ONE_PARAMETER = "- step:\n    name: s\n    image: x\n    command: run {parameters}\n    parameters: [%s]\n"
A_TEXT = parse_config(ONE_PARAMETER % "{name: p}")
A_NUMBER = parse_config(ONE_PARAMETER % "{name: p, type: integer}")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_any_text_reaches_the_program_as_one_argument(text: str) -> None:
    spec = build(A_TEXT, {"p": text}, step="s")
    assert shlex.split(spec.command_lines[0]) == ["run", f"--p={text}"]
    assert spec.parameters[0].value.string_value == text


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_whole_numbers_are_carried_exactly(number: int) -> None:
    spec = build(A_NUMBER, {"p": str(number)}, step="s")
    assert int(spec.parameters[0].value.number_value) == number
    assert list(spec.command_lines) == [f"run --p={number}"]
