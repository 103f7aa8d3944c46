"""Parameters of a step: what was given, what is kept, and what the commands say of it."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_core.errors import InvalidInput
from runyard_runspec import Config, Value, parse_config

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
