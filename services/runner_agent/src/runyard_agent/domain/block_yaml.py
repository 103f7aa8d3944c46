"""JSON values as YAML that every reader takes for the same value."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

# YAML reads no longer key without being told that it is one.
_SIMPLE_KEY_LENGTH_MAX = 1000

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def block_yaml(value: Json) -> str:
    """Write a JSON value as YAML in block style, so that every YAML reader gives the same value."""
    return "\n".join(_yaml_lines(value)) + "\n"


def _yaml_lines(value: Json) -> list[str]:
    match value:
        case Mapping() if value:
            lines: list[str] = []
            for key, item in value.items():
                lines += _yaml_pair(_scalar(key), item)
            return lines
        case str() | Mapping():
            return [_scalar(value)]
        case Sequence() if value:
            return [line for item in value for line in _yaml_entry("-", item)]
        case _:
            return [_scalar(value)]


def _yaml_pair(key: str, item: Json) -> list[str]:
    if len(key) < _SIMPLE_KEY_LENGTH_MAX:
        return _yaml_entry(f"{key}:", item)
    return [f"? {key}", *_yaml_entry(":", item)]


def _yaml_entry(head: str, item: Json) -> list[str]:
    if isinstance(item, str) or not isinstance(item, Mapping | Sequence) or not item:
        return [f"{head} {_scalar(item)}"]
    return [head, *(f"  {line}" for line in _yaml_lines(item))]


def _scalar(value: Json) -> str:
    match value:
        case str():
            return f'"{"".join(map(_yaml_character, value))}"'
        case float() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else (".inf" if value > 0 else "-.inf")
        case float():
            # YAML 1.1 takes 1e-05 for a text: its floats need a point.
            mantissa, exponent_mark, exponent = repr(value).partition("e")
            return mantissa + (".0" if "." not in mantissa else "") + exponent_mark + exponent
        case _:
            return json.dumps(value)


def _yaml_character(character: str) -> str:
    if character in {'"', "\\"}:
        return "\\" + character
    # ASCII only: YAML does not allow all characters that JSON does, but it has escapes for all.
    if " " <= character <= "~":
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
