"""How values get into the commands of a step: by its placeholders, and by each parameter's ``pass-as``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Formatter

from valohai_yaml.commands import build_command
from valohai_yaml.objs.parameter_map import ParameterMap

from runyard_core.errors import InvalidInput
from runyard_runspec.config import Config, Step
from runyard_runspec.parameters import Atom, Parameter, ParameterType, Value

_ALL = ("{parameters}", "{params}")
_WIDTH = re.compile(r"[^0-9{}]*[0-9]{0,3}[^0-9{}]*[0-9]{0,3}[^0-9{}]*")
_SAMPLES: Mapping[ParameterType, Atom] = {
    ParameterType.INTEGER: 1,
    ParameterType.FLOAT: 1.0,
    ParameterType.STRING: "text",
    ParameterType.FLAG: True,
}


def fill_commands(config: Config, step: Step, values: Mapping[str, Value]) -> list[str]:
    """Fill the values in; one that is None leaves nothing behind, whatever its default is.

    Raises:
        InvalidInput: ``BAD_PASS_AS``, a value that the commands pass cannot be put into its ``pass-as``.
    """
    command = step.parsed.command
    lines = [command] if isinstance(command, str) else list(command)
    present: dict[str, Value] = {name: value for name, value in values.items() if value is not None}
    for parameter in step.parameters:
        if parameter.name in present and _is_passed(parameter.name, lines):
            problem = passing_problem(step, parameter, present[parameter.name])
            if problem:
                raise InvalidInput(
                    f"{config.file_name}:{parameter.line}: {problem}",
                    code="BAD_PASS_AS",
                    metadata={"parameter": parameter.name},
                )
    for name in values.keys() - present.keys():
        # The parser would leave the placeholder itself in the command.
        lines = [line.replace(f"{{parameter-value:{name}}}", "''") for line in lines]
    # Not by the parsed step: it puts defaults where values are left out, but those of flags never.
    filled = ParameterMap(parameters=step.parsed.parameters, values=present)
    source_path = step.parsed.source_path
    return build_command(lines, filled, {} if source_path is None else {"source-path": source_path})


def passing_problem(step: Step, parameter: Parameter, value: Value = None) -> str:
    """Say why a value, or any at all, cannot be put into the parameter's ``pass-as``; empty when it can."""
    sample = _SAMPLES[parameter.type] if value is None else value
    parsed = step.parsed.parameters[parameter.name]
    try:
        for template in (parsed.pass_as, parsed.pass_true_as, parsed.pass_false_as):
            _check_widths(template or "")
        parsed.format_cli(sample)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        return (
            f"parameter {parameter.name} of step {step.name}: its pass-as cannot be filled in ({error}): "
            "it may hold {name}, {value} and {v}, and other braces twice ({{ }})"
        )
    return ""


def _check_widths(template: str) -> None:
    """Refuse what would make a value as wide as memory."""
    for _, _, width, _ in Formatter().parse(template):
        if width and _WIDTH.fullmatch(width) is None:
            raise ValueError(f"{width!r} is too wide")


def _is_passed(name: str, lines: Sequence[str]) -> bool:
    return any(part in line for line in lines for part in (*_ALL, f"{{parameter:{name}}}"))
