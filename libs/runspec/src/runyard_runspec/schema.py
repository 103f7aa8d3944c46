"""Errors of the file format's JSON schema, told with a line and in words of the file."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from jsonschema import ValidationError
from valohai_yaml.validation import get_validator

from runyard_runspec.document import Document

_TYPE_NAMES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "a mapping (key: value)",
    "string": "text",
    "null": "nothing",
}


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that the format does not allow."""

    line: int
    """Where, from 1."""
    message: str
    """What, and how to mend it."""


def schema_problems(document: Document) -> list[Problem]:
    """Find everything that the schema does not allow, in the order of the file."""
    if document.data is None:
        return [Problem(1, "the file is empty: write at least one step (- step:)")]
    problems = {
        problem
        for error in get_validator().iter_errors(document.data)
        for problem in _explain(error, document, error.absolute_path)
    }
    return sorted(problems)


def subject_of(data: object, path: Sequence[Hashable]) -> str:
    """Name the part of the file that a path leads to: "step train, parameter epochs"."""
    names: list[str] = []
    node = data
    kind = ""
    for key in path:
        try:
            node = node[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            break
        if isinstance(key, str):
            kind = key.removesuffix("s") if isinstance(node, list) else key
        if kind and isinstance(node, dict) and isinstance(node.get("name"), str):
            names.append(f"{kind} {node['name']}")
    return ", ".join(names)


def _explain(error: ValidationError, document: Document, path: Iterable[Hashable]) -> list[Problem]:
    where = list(path)
    subject = subject_of(document.data, where)
    named = f"{subject}: " if subject else ""
    key = next((str(part) for part in reversed(where) if isinstance(part, str)), "")
    line = document.line_of(where)
    instance: Any = error.instance
    wanted: Any = error.validator_value
    match error.validator:
        case "additionalProperties" if isinstance(instance, dict):
            known = list(error.schema.get("properties", {})) if isinstance(error.schema, dict) else []
            return [
                Problem(
                    document.line_of([*where, name]),
                    f"{named}unknown key {name!r}{_meant(name, known) or ': remove it'}",
                )
                for name in instance
                if name not in known
            ]
        case "required":
            missing = [name for name in wanted if name not in instance]
            what = ", ".join(repr(name) for name in missing)
            return [Problem(line, f"{named or _the(key)}lacks {what}: add it{_misplaced(error)}")]
        case "type":
            return [Problem(line, f"{named}{_wrong_type(error, key)}")]
        case "enum":
            allowed = ", ".join(str(each) for each in wanted)
            near = _meant(str(instance), [str(each) for each in wanted])
            return [Problem(line, f"{named}{key} cannot be {instance!r}: want one of {allowed}{near}")]
        case "pattern":
            return [Problem(line, f"{named}{key} cannot be {instance!r}: want {wanted}")]
        case "maxLength":
            return [Problem(line, f"{named}{key} is longer than {wanted} characters: shorten it")]
        case "oneOf" | "anyOf":
            return _explain_choice(error, document, where, named, key)
        case _:
            return [Problem(line, f"{named}{key}: {error.message[:200]}")]


def _explain_choice(
    error: ValidationError, document: Document, where: list[Hashable], named: str, key: str
) -> list[Problem]:
    branches = list(error.context or ())
    # An alternative of another type was not meant; if one is left, its own errors say what is wrong.
    excluded = {
        branch.schema_path[0] for branch in branches if branch.validator == "type" and not branch.path
    }
    meant = [branch for branch in branches if branch.schema_path[0] not in excluded]
    if excluded and meant:
        return _explain(meant[0], document, [*where, *meant[0].path])
    # The branch that got furthest into the value is the one that was meant.
    deep = [branch for branch in branches if len(branch.path) > 0 and branch.validator != "const"]
    if deep and isinstance(error.instance, dict | list):
        best = max(deep, key=lambda branch: len(branch.path))
        return _explain(best, document, [*where, *best.path])
    line = document.line_of(where)
    required = [branch for branch in branches if branch.validator == "required"]
    if required and isinstance(error.instance, dict) and len(required) == len(branches):
        names = [name for branch in required for name in _wanted(branch)]
        return [Problem(line, f"{named}lacks {' or '.join(repr(name) for name in names)}: add one")]
    constants = [branch for branch in branches if branch.validator == "const"]
    if constants and isinstance(error.instance, dict):
        allowed = ", ".join(str(branch.validator_value) for branch in constants)
        kind = error.instance.get("type")
        if kind not in [branch.validator_value for branch in constants]:
            return [Problem(line, f"{named}type cannot be {kind!r}: want one of {allowed}")]
    types = [
        _TYPE_NAMES.get(str(branch.validator_value)) for branch in branches if branch.validator == "type"
    ]
    wanted = " or ".join(dict.fromkeys(name for name in types if name)) or "something else"
    return [Problem(line, f"{named}{key} cannot be {_shown(error.instance)}: want {wanted}")]


def _wrong_type(error: ValidationError, key: str) -> str:
    wanted = _wanted(error)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    want = " or ".join(_TYPE_NAMES.get(name, name) for name in names)
    if not error.absolute_path:
        return "the file must be a list of items: begin each with a dash (- step:)"
    if error.instance is None:
        return f"{key} is empty: want {want}; indent what belongs to it deeper than {key!r}"
    return f"{key} cannot be {_shown(error.instance)}: want {want}"


def _wanted(error: ValidationError) -> Any:
    return error.validator_value


def _misplaced(error: ValidationError) -> str:
    """Point at the usual cause of a missing key: it stands beside its item instead of below."""
    instance = error.instance
    return ", or check its indentation" if isinstance(instance, dict) and len(instance) <= 1 else ""


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return repr(value)[:60]


def _the(key: str) -> str:
    return f"{key} " if key else ""


def _meant(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(str(name), known, n=1)
    return f": did you mean {close[0]!r}?" if close else ""
