"""A step's own parameters as real options of ``runyard run STEP``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from runyard_cli.output import note

if TYPE_CHECKING:
    from runyard_runspec import Parameter, Step, Value

_OPTIONS = "runyard_cli.step_options"
_TAKEN = "runyard_cli.step_parameters_without_option"
_VALUES = "runyard_cli.step_values"
_NOT_IN_OPTIONS = frozenset("=/; \t\n")


class StepOption(click.Option):
    """A parameter of the step. Values stay text here: the step's own rules check them, in one place."""

    def __init__(self, declarations: Sequence[str], parameter: Parameter, **settings: Any) -> None:
        """As ``click.Option``; the value, if given, is kept for ``given_values``."""
        super().__init__(declarations, expose_value=False, callback=self._keep, default=None, **settings)
        self.parameter_name = parameter.name

    def _keep(self, context: click.Context, _option: click.Parameter, value: Any) -> None:
        # An empty string, zero and false count: only what was not typed is left to the default.
        if context.get_parameter_source(self.name) is ParameterSource.COMMANDLINE:
            kept = list(value) if isinstance(value, tuple) else value
            given_values(context)[self.parameter_name] = kept


class StepCommand(click.Command):
    """A command whose first argument names a step, whose parameters become options of the command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the step among the arguments, then parse them with its options."""
        name = find_step_name(self.params, args)
        if name is not None:
            taken = {each for option in self.params for each in (*option.opts, *option.secondary_opts)}
            step = _read_step(
                name, for_help="--help" in args or "-h" in args, for_completion=ctx.resilient_parsing
            )
            ctx.meta[_OPTIONS] = options = options_of_step(step, taken) if step is not None else []
            with_option = {option.parameter_name for option in options}
            parameters = step.parameters if step is not None else ()
            ctx.meta[_TAKEN] = [each for each in parameters if each.name not in with_option]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Give the options of every run, then those of the step."""
        return [*super().get_params(ctx), *ctx.meta.get(_OPTIONS, ())]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the step's parameters before the options of every run."""
        of_step: list[tuple[str, str]] = []
        of_every_run: list[tuple[str, str]] = []
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                (of_step if isinstance(option, StepOption) else of_every_run).append(record)
        taken: Sequence[Parameter] = ctx.meta.get(_TAKEN, ())
        of_step += [(f"--param {parameter.name}=VALUE", _words_of(parameter)) for parameter in taken]
        if of_step:
            with formatter.section("Parameters of this step"):
                formatter.write_dl(of_step)
        with formatter.section("Options"):
            formatter.write_dl(of_every_run)


def complete_step(_context: click.Context, _argument: click.Parameter, incomplete: str) -> list[str]:
    """Name the steps of the file here for a shell: none where there is no file, or a broken one."""
    from runyard_core.errors import RunyardError
    from runyard_runspec import find_config, read_config

    try:
        steps = read_config(find_config(Path())).steps
    except RunyardError:
        return []
    return [name for name in steps if name.startswith(incomplete)]


def given_values(context: click.Context) -> dict[str, Value]:
    """Give the parameter values typed as options, by parameter name."""
    values: dict[str, Value] = context.meta.setdefault(_VALUES, {})
    return values


def find_step_name(options: Sequence[click.Parameter], args: Sequence[str]) -> str | None:
    """Find the first argument that is neither an option nor an option's value."""
    with_value = {
        name
        for option in options
        if isinstance(option, click.Option) and not option.is_flag
        for name in option.opts
    }
    skip = False
    for arg in args:
        if skip:
            skip = False
        elif arg == "--":
            return None
        elif arg in with_value:
            skip = True
        elif not arg.startswith("-"):
            return arg
    return None


def options_of_step(step: Step, taken: set[str]) -> list[StepOption]:
    """Make an option of each parameter; one whose name is taken is left to ``--param``."""
    found = []
    for index, parameter in enumerate(step.parameters):
        name = f"--{parameter.name}"
        if name in taken or name in {"--help", "-h"} or _NOT_IN_OPTIONS & set(parameter.name):
            continue
        found.append(_option_of(parameter, name, f"step_parameter_{index}", taken))
    return found


def _read_step(name: str, *, for_help: bool, for_completion: bool) -> Step | None:
    from runyard_core.errors import RunyardError
    from runyard_runspec import find_config, read_config

    try:
        return read_config(find_config(Path())).step(name)
    except RunyardError as error:
        # A shell completes a line that is being typed: nothing may be written into it.
        if for_completion:
            return None
        # Help must come even where the file is broken; a run must not.
        if for_help:
            note(f"The parameters of {name!r} are not known: {error.message}")
            return None
        raise


def _option_of(parameter: Parameter, name: str, keyword: str, taken: set[str]) -> StepOption:
    from runyard_runspec import ParameterType

    words = _words_of(parameter)
    if parameter.type is ParameterType.FLAG:
        negated = f"--no-{parameter.name}"
        declaration = name if negated in taken else f"{name}/{negated}"
        return StepOption([declaration, keyword], parameter, is_flag=True, help=words)
    return StepOption(
        [name, keyword],
        parameter,
        type=str,
        multiple=parameter.is_multiple,
        metavar=parameter.type.value.upper(),
        help=words,
    )


def _words_of(parameter: Parameter) -> str:
    words = [parameter.description] if parameter.description else []
    words.append(f"[{parameter.describe()}]")
    if parameter.default is not None:
        words.append(f"[default: {parameter.default!r}]")
    elif parameter.is_required:
        words.append("[required]")
    return "  ".join(words)
