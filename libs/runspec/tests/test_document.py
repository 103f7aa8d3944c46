from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_core.errors import InvalidInput
from runyard_runspec.document import parse_document


def refused(text: str | bytes) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parse_document(text, "f.yaml")
    return caught.value


def test_lines_are_those_of_the_keys() -> None:
    document = parse_document("- step:\n    name: a\n\n    command:\n      - x\n      - y\n", "f.yaml")
    assert document.line_of((0, "step", "name")) == 2
    assert document.line_of((0, "step", "command")) == 4
    assert document.line_of((0, "step", "command", 1)) == 6
    assert document.line_of((0, "step", "missing", 3)) == 1


def test_line_of_a_merged_key_is_where_it_was_written() -> None:
    text = "- base: &base\n    image: x\n- step:\n    <<: *base\n    name: a\n"
    document = parse_document(text, "f.yaml")
    assert document.data == [{"base": {"image": "x"}}, {"step": {"image": "x", "name": "a"}}]
    assert document.line_of((1, "step", "image")) == 2
    assert document.duplicate_keys == ()


def test_overridden_merge_is_no_duplicate_but_a_repeated_key_is() -> None:
    text = "- base: &base\n    a: 1\n- step:\n    <<: *base\n    a: 2\n    b: 3\n    b: 4\n"
    document = parse_document(text, "f.yaml")
    assert [(each.key, each.line) for each in document.duplicate_keys] == [("b", 7)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- step:\n  name: x\n   image: y\n", 3),
        ("a: [1,2\nb: 3", 2),
        ("\ta: 1", 1),
        ("a: b: c", 1),
        ("a: 1\nb: *nowhere", 2),
        ("a: 1\n--- 2", 2),
        ("a: !!python/object:os.system x", 1),
    ],
)
def test_broken_yaml_is_refused_with_its_line(text: str, line: int) -> None:
    error = refused(text)
    assert error.code == "CONFIG_SYNTAX"
    assert error.message.startswith(f"f.yaml:{line}: not valid YAML: ")
    assert "\n" not in error.message


def test_text_that_is_not_utf8_is_refused_with_its_line() -> None:
    assert refused(b"a: 1\nb: \xff\n").message.startswith("f.yaml:2: not UTF-8")


def test_impossible_date_is_refused() -> None:
    assert refused("a: 2020-13-45").code == "CONFIG_SYNTAX"


def test_oversized_text_is_refused_before_it_is_parsed() -> None:
    error = refused("a: " + "x" * (1 << 20))
    assert error.code == "CONFIG_TOO_LARGE"


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " * 3 + "{a: " * 50_000, "- " * 200_000])
def test_deep_nesting_is_refused_quickly_and_does_not_crash(text: str) -> None:
    began = time.process_time()
    assert refused(text).code in {"CONFIG_TOO_LARGE", "CONFIG_SYNTAX"}
    assert time.process_time() - began < 2


def test_too_many_parts_are_refused() -> None:
    assert refused("- 1\n" * 150_000).code == "CONFIG_TOO_LARGE"


def test_aliases_that_multiply_are_refused_at_once() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join(['*' + former] * 10)}]"
        for former, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    began = time.process_time()
    error = refused("\n".join(lines))
    assert error.code == "CONFIG_TOO_LARGE"
    assert "aliases" in error.message
    assert time.process_time() - began < 1


def test_alias_that_leads_back_to_itself_is_refused() -> None:
    error = refused("- 1\n- &a [1, *a]")
    assert error.message.startswith("f.yaml:2: an alias leads back to itself")


def test_aliases_in_moderation_are_fine() -> None:
    assert parse_document("a: &a {x: 1}\nb: *a\n", "f.yaml").data == {"a": {"x": 1}, "b": {"x": 1}}


@given(st.text(max_size=80))
def test_any_text_parses_or_is_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        parse_document(text, "f.yaml")
    except InvalidInput as error:
        message = error.message
    assert "\n" not in message
