"""Everything that is or may be wrong with a ``valohai.yaml``, with lines and what to do."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from valohai_yaml.lint import LintResult

from runyard_contracts.agent_controls import not_heeded
from runyard_contracts.stop_condition import parse_stop_condition
from runyard_core.errors import InvalidInput
from runyard_runspec.config import Config, Step, config_of, parse_objects, problems_of, step_bodies
from runyard_runspec.document import Document, parse_document
from runyard_runspec.inputs import check_reference
from runyard_runspec.passing import passing_problem

_PLACEHOLDER = re.compile(r"\{parameter(?:-value)?:([^{}]+)\}")
_ITEM = re.compile(r'(?:^|\b)(step|task|pipeline|endpoint|deployment)\b[ "]+([^",:]+)', re.IGNORECASE)
_PARAMETER = re.compile(r"\bparameter (\S+?)[:,]")
_TYPE_REPR = re.compile(r"<class '([\w.]+)'>")
_TOP_LEVEL = ("step", "task", "pipeline", "blueprint", "endpoint", "deployment")
# Parts of a step that are about another platform's machines, and what does their work here.
_KEYS_NOT_HEEDED = {
    "environment": "a run goes where what it needs is free (resources, VH_GPUS)",
    "environment-variable-groups": "secrets and variables belong to the project (`runyard secret set`)",
    "cache-volumes": "what a node has fetched or installed stays on it by itself",
    "runtime-config-preset": "resources say what a run may use",
    "upload-store": "outputs go to the yard's own store",
}
# An action in the vendor's documentation and own examples but unknown to its linter; and what we find
# ourselves, with lines.
_NOT_PASSED_ON = ("require-approval", "Duplicate ", "No parser for ")


class Severity(StrEnum):
    """How bad a finding is: an error keeps the file from running."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that somebody should look at."""

    line: int
    """Where, from 1."""
    severity: Severity
    """How bad."""
    code: str
    """Stable reason."""
    message: str
    """What is wrong, and how to mend it."""


def lint_text(text: str | bytes, file_name: str = "valohai.yaml") -> list[Finding]:
    """Find what is wrong with the text of a file, in the order of its lines. Never raises for bad input."""
    try:
        document = parse_document(text, file_name)
    except InvalidInput as error:
        return [_finding_of(error, file_name)]
    findings = [
        Finding(
            duplicate.line,
            Severity.WARNING,
            "DUPLICATE_KEY",
            f"key {duplicate.key!r} comes twice and the last one counts: remove one",
        )
        for duplicate in document.duplicate_keys
    ]
    problems = problems_of(document)
    findings += [Finding(each.line, Severity.ERROR, "CONFIG_INVALID", each.message) for each in problems]
    if not problems:
        try:
            findings += _vendor_findings(document)
            config, blamed = config_of(document), {each.line for each in findings}
            findings += _own_findings(config, document)
            findings += [each for each in _stop_conditions(document) if each.line not in blamed]
        except InvalidInput as error:
            findings.append(_finding_of(error, file_name))
    return sorted(set(findings), key=lambda each: (each.line, each.severity, each.message))


def _finding_of(error: InvalidInput, file_name: str) -> Finding:
    match = re.match(re.escape(file_name) + r"(?::(\d+))?: ", error.message)
    line = int(match.group(1) or 1) if match else 1
    message = error.message[match.end() :] if match else error.message
    return Finding(line, Severity.ERROR, error.code, message)


def _vendor_findings(document: Document) -> Iterator[Finding]:
    result = LintResult()
    parse_objects(document).lint(result)
    for found in result.messages:
        text = str(found["message"]).strip()
        if found["type"] == "hint" or any(part in text for part in _NOT_PASSED_ON):
            continue
        is_error = found["type"] == "error"
        yield Finding(
            _line_of_message(text, document),
            Severity.ERROR if is_error else Severity.WARNING,
            "CONFIG_INVALID" if is_error else "CONFIG_DOUBTFUL",
            _TYPE_REPR.sub(r"\1", text),
        )


def _line_of_message(text: str, document: Document) -> int:
    """Find the line of a message that names an item, and maybe its parameter, but no place."""
    item = _ITEM.search(text)
    if item is None or not isinstance(document.data, list):
        return 1
    kind, name = item.group(1).lower(), item.group(2).strip()
    # Of items with the same name the last counts, and it is the one to blame.
    for index in reversed(range(len(document.data))):
        entry = document.data[index]
        body = entry.get(kind) if isinstance(entry, dict) else None
        if not isinstance(body, dict) or str(body.get("name")).rstrip(".") != name.rstrip("."):
            continue
        return document.line_of(_part_path(text, body, (index, kind)))
    return 1


def _part_path(text: str, body: Mapping[str, Any], path: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
    parameter = _PARAMETER.search(text)
    parameters = body.get("parameters")
    if parameter is not None and isinstance(parameters, list):
        for index, each in enumerate(parameters):
            if isinstance(each, dict) and each.get("name") == parameter.group(1):
                key = "default" if " default " in text and "default" in each else "name"
                return (*path, "parameters", index, key)
    for key in ("stop-condition", "runtime-config-preset"):
        if key in text and key in body:
            return (*path, key)
    return (*path, "name")


def _own_findings(config: Config, document: Document) -> Iterator[Finding]:
    yield from _top_level_findings(document)
    for index, body in step_bodies(document):
        yield from _duplicate_names(body, document, (index, "step"))
        step = config.steps[str(body["name"])]
        yield from _command_doubts(step, body, document, (index, "step"))
        yield from _passing_problems(step)
        yield from _controls_not_heeded(step)
        yield from _unknown_references(step, config.file_name)
        yield from _keys_not_heeded(body, document, (index, "step"))


def _top_level_findings(document: Document) -> Iterator[Finding]:
    seen: set[tuple[str, str]] = set()
    for index, item in enumerate(document.data if isinstance(document.data, list) else []):
        kind = next((key for key in item if key in _TOP_LEVEL), "")
        if not kind:
            key = next(iter(item), "")
            close = get_close_matches(str(key), _TOP_LEVEL, n=1)
            advice = f"did you mean {close[0]!r}?" if close else f"want one of {', '.join(_TOP_LEVEL)}"
            line = document.line_of((index, key))
            message = f"item {str(key)!r} means nothing and is left out: {advice}"
            yield Finding(line, Severity.WARNING, "UNKNOWN_ITEM", message)
            continue
        name = str(item[kind].get("name"))
        if (kind, name) in seen:
            line = document.line_of((index, kind, "name"))
            message = f"{kind} {name!r} comes twice and the last one counts: rename one"
            yield Finding(line, Severity.WARNING, "DUPLICATE_NAME", message)
        seen.add((kind, name))


def _duplicate_names(
    body: Mapping[str, Any], document: Document, path: tuple[Hashable, ...]
) -> Iterator[Finding]:
    for key in ("parameters", "inputs", "environment-variables"):
        seen: set[object] = set()
        items = body.get(key)
        for index, each in enumerate(items if isinstance(items, list) else []):
            name = each.get("name") if isinstance(each, dict) else None
            if name is not None and name in seen:
                yield Finding(
                    document.line_of((*path, key, index, "name")),
                    Severity.WARNING,
                    "DUPLICATE_NAME",
                    f"step {body.get('name')}: {key} has {name!r} twice and the last one counts: rename one",
                )
            seen.add(name)


def _passing_problems(step: Step) -> Iterator[Finding]:
    for parameter in step.parameters:
        if problem := passing_problem(step, parameter):
            yield Finding(parameter.line, Severity.ERROR, "BAD_PASS_AS", problem)


def _controls_not_heeded(step: Step) -> Iterator[Finding]:
    lines = {variable.name: variable.line for variable in step.variables}
    for name, sentence in not_heeded({each.name: each.default for each in step.variables}):
        yield Finding(lines[name], Severity.WARNING, "CONTROL_NOT_HEEDED", f"step {step.name}: {sentence}")


def _stop_conditions(document: Document) -> Iterator[Finding]:
    """Find conditions that the agent will not read: the parser lets calls and attributes pass."""
    for index, body in step_bodies(document):
        try:
            parse_stop_condition(str(body.get("stop-condition") or "0"))
        except ValueError as error:
            line = document.line_of((index, "step", "stop-condition"))
            message = f"step {body.get('name')}: stop-condition cannot be read: {error}"
            yield Finding(line, Severity.ERROR, "STOP_CONDITION_INVALID", message)


def _unknown_references(step: Step, file_name: str) -> Iterator[Finding]:
    """Find defaults of inputs that no run could use; what a placeholder stands for is known only then."""
    for each in step.inputs:
        for uri in each.default_uris:
            try:
                if _PLACEHOLDER.search(uri) is None:
                    check_reference(uri, each.name, file_name)
            except InvalidInput as error:
                message = f"step {step.name}: {error.message.removeprefix(f'{file_name}: ')}"
                yield Finding(each.line, Severity.WARNING, error.code, message)


def _keys_not_heeded(
    body: Mapping[str, Any], document: Document, path: tuple[Hashable, ...]
) -> Iterator[Finding]:
    for key, reason in _KEYS_NOT_HEEDED.items():
        if body.get(key):
            message = f"step {body.get('name')}: {key!r} is not heeded here: {reason}"
            yield Finding(document.line_of((*path, key)), Severity.WARNING, "KEY_NOT_HEEDED", message)


def _command_doubts(
    step: Step, body: Mapping[str, Any], document: Document, path: tuple[Hashable, ...]
) -> Iterator[Finding]:
    command = body.get("command")
    lines = command if isinstance(command, list) else [command]
    if not any(str(line).strip() for line in lines):
        message = f"step {step.name}: the command is empty: there is nothing to run"
        yield Finding(document.line_of((*path, "command")), Severity.WARNING, "EMPTY_COMMAND", message)
    names = {parameter.name for parameter in step.parameters}
    for index, line in enumerate(lines):
        place = (*path, "command", index) if isinstance(command, list) else (*path, "command")
        for name in _PLACEHOLDER.findall(str(line)):
            if name not in names:
                yield Finding(
                    document.line_of(place),
                    Severity.WARNING,
                    "UNKNOWN_PLACEHOLDER",
                    f"step {step.name}: the command names parameter {name!r}, which the step does not have: "
                    "it stays as written",
                )
