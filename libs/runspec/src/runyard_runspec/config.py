"""The steps of a ``valohai.yaml`` in our own words, with the line of each part."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from valohai_yaml.objs import Config as ParsedConfig
from valohai_yaml.objs import Step as ParsedStep
from valohai_yaml.objs.input import DownloadIntent
from valohai_yaml.utils.duration import parse_duration

from runyard_core.errors import InvalidInput, NotFound
from runyard_runspec.document import Document, parse_document
from runyard_runspec.inputs import InputDefinition
from runyard_runspec.parameters import Parameter, ParameterType
from runyard_runspec.schema import Problem, schema_problems

CONFIG_NAMES = ("runyard.yaml", "valohai.yaml")
"""Names of the file, the one that counts first."""

_DURATION = re.compile(r"\s*([0-9]+(\.[0-9]+)?\s*[smhdw][a-z]*\s*)+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class VariableDefinition:
    """An environment variable as its step declares it."""

    name: str
    default: str | None
    is_optional: bool
    line: int


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the file."""

    name: str
    """Its name."""
    image: str
    """Container image."""
    description: str
    """For people."""
    parameters: tuple[Parameter, ...]
    """In the order declared."""
    inputs: tuple[InputDefinition, ...]
    """In the order declared."""
    variables: tuple[VariableDefinition, ...]
    """Environment variables, in the order declared."""
    line: int
    """Where it begins."""
    parsed: ParsedStep = field(repr=False, compare=False)
    """The parser's own object: for this package only."""


@dataclass(frozen=True, slots=True)
class Config:
    """A whole file."""

    file_name: str
    """As messages name it."""
    steps: Mapping[str, Step]
    """By name, in the order of the file."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Names of tasks, pipelines, endpoints and deployments, with what each is."""

    def step(self, name: str) -> Step:
        """Give a step.

        Raises:
            NotFound: ``UNKNOWN_STEP``, with the names there are; ``NOT_A_STEP`` for a task or a pipeline.
        """
        found = self.steps.get(name)
        if found is not None:
            return found
        if name in self.others:
            kind = self.others[name]
            article = "an" if kind[0] in "aeiou" else "a"
            raise NotFound(
                f"{self.file_name}: {name!r} is {article} {kind}, and only steps can be run yet",
                code="NOT_A_STEP",
                metadata={"step": name},
            )
        close = get_close_matches(name, self.steps, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        has = f"steps: {', '.join(self.steps)}" if self.steps else "it has no steps"
        raise NotFound(
            f"{self.file_name}: no step {name!r}: {meant}{has}", code="UNKNOWN_STEP", metadata={"step": name}
        )


def find_config(directory: Path) -> Path:
    """Find the file in a directory.

    Raises:
        NotFound: ``NO_CONFIG``.
    """
    for name in CONFIG_NAMES:
        if (directory / name).is_file():
            return directory / name
    raise NotFound(
        f"no valohai.yaml or runyard.yaml in {directory.resolve()}: go to the project's folder, or write one",
        code="NO_CONFIG",
    )


def read_config(path: Path) -> Config:
    """Read a file.

    Raises:
        NotFound: ``NO_CONFIG`` when it cannot be read.
        InvalidInput: as ``parse_config``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}", code="NO_CONFIG") from None
    return parse_config(content, path.name)


def parse_config(text: str | bytes, file_name: str = "valohai.yaml") -> Config:
    """Parse the text of a file.

    Raises:
        InvalidInput: ``CONFIG_TOO_LARGE``, ``CONFIG_SYNTAX`` or ``CONFIG_INVALID``, for the first problem,
            with file, line and what to do.
    """
    document = parse_document(text, file_name)
    return config_of(document)


def config_of(document: Document) -> Config:
    """Make a config of parsed YAML.

    Raises:
        InvalidInput: ``CONFIG_INVALID``.
    """
    for problem in problems_of(document):
        raise InvalidInput(f"{document.file_name}:{problem.line}: {problem.message}", code="CONFIG_INVALID")
    parsed = parse_objects(document)
    # Of two steps with one name the last counts, here as in the parser.
    bodies = {str(body["name"]): (index, body) for index, body in step_bodies(document)}
    steps = {
        name: _step_of(parsed.steps[name], body, document, (index, "step"))
        for name, (index, body) in bodies.items()
    }
    groups: Mapping[str, Iterable[str]] = {
        "task": parsed.tasks,
        "pipeline": parsed.pipelines,
        "endpoint": parsed.endpoints,
        "deployment": parsed.deployments,
    }
    others = {name: kind for kind, group in groups.items() for name in group}
    return Config(file_name=document.file_name, steps=steps, others=others)


def step_bodies(document: Document) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Give the data of each step with its place in the file."""
    for index, item in enumerate(document.data if isinstance(document.data, list) else []):
        if isinstance(item, dict) and isinstance(item.get("step"), dict):
            yield index, item["step"]


def problems_of(document: Document) -> list[Problem]:
    """Find everything that keeps a file from being used, in the order of its lines."""
    return schema_problems(document) or sorted(_duration_problems(document))


def _duration_problems(document: Document) -> Iterator[Problem]:
    """Refuse what the parser would choke on without a line ("10" lacks its unit)."""
    for index, body in step_bodies(document):
        for key in ("time-limit", "no-output-timeout"):
            value = body.get(key)
            if not _is_duration(value):
                yield Problem(
                    document.line_of((index, "step", key)),
                    f"step {body['name']}: {key} cannot be {value!r}: "
                    'want seconds (90) or units of s, m, h, d, w ("1h 30m")',
                )


def _is_duration(value: object) -> bool:
    if isinstance(value, str) and _DURATION.fullmatch(value) is None:
        return False
    if isinstance(value, int) and value < 0:
        return False
    try:
        parse_duration(value)  # type: ignore[arg-type]  # the schema lets nothing else through
    except (ValueError, OverflowError):
        return False
    return True


def parse_objects(document: Document) -> ParsedConfig:
    """Make the parser's own objects of schema-clean data.

    Raises:
        InvalidInput: ``CONFIG_INVALID`` for what the schema lets through and the parser does not.
    """
    try:
        return ParsedConfig.parse(document.data if isinstance(document.data, list) else [])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InvalidInput(f"{document.file_name}: {error}", code="CONFIG_INVALID") from None


def _step_of(
    parsed: ParsedStep, body: Mapping[str, Any], document: Document, path: Sequence[Hashable]
) -> Step:
    def lines(key: str) -> dict[str, int]:
        return {
            str(item["name"]): document.line_of((*path, key, index, "name"))
            for index, item in enumerate(body.get(key) or [])
            if isinstance(item, dict)
        }

    variable_lines = lines("environment-variables")
    return Step(
        name=parsed.name,
        image=parsed.image,
        description=(parsed.description or "").strip(),
        parameters=_parameters_of(parsed, body, lines("parameters")),
        inputs=_inputs_of(parsed, lines("inputs")),
        variables=tuple(
            VariableDefinition(
                name=each.name,
                default=each.default,
                is_optional=each.optional,
                line=variable_lines.get(each.name, 1),
            )
            for each in parsed.environment_variables.values()
        ),
        line=document.line_of(path),
        parsed=parsed,
    )


def _parameters_of(
    parsed: ParsedStep, body: Mapping[str, Any], lines: Mapping[str, int]
) -> tuple[Parameter, ...]:
    # The parser makes an empty list of no default at all, but an empty list may be what somebody wrote.
    written = {str(each["name"]): each.get("default") for each in body.get("parameters") or []}
    return tuple(
        Parameter(
            name=each.name,
            type=ParameterType(each.type),
            default=None if written.get(each.name) is None else each.default,
            is_optional=each.optional,
            is_multiple=each.multiple is not None,
            minimum=_number(each.min),
            maximum=_number(each.max),
            choices=tuple(each.choices or ()),
            description=(each.description or "").strip(),
            line=lines.get(each.name, 1),
        )
        for each in parsed.parameters.values()
    )


def _inputs_of(parsed: ParsedStep, lines: Mapping[str, int]) -> tuple[InputDefinition, ...]:
    return tuple(
        InputDefinition(
            name=each.name,
            default_uris=_listed(each.default),
            is_optional=each.optional,
            filename=each.filename or "",
            keep_directories=each.keep_directories.value,
            is_on_demand=each.download is DownloadIntent.ON_DEMAND,
            description=(each.description or "").strip(),
            line=lines.get(each.name, 1),
        )
        for each in parsed.inputs.values()
    )


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _listed(default: list[str] | str | None) -> tuple[str, ...]:
    if default is None or default == "":
        return ()
    return (default,) if isinstance(default, str) else tuple(default)
