"""The entry point: finds the command, runs it, and turns whatever goes wrong into words and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from runyard_cli.failures import ExitCode, explain_client_error, fail
from runyard_cli.output import expect, note

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Help texts stand here so that listing the commands imports none of them.
COMMANDS: Mapping[str, Mapping[str, str]] = {
    "Run": {
        "lint": "Check valohai.yaml, with line numbers and the fix.",
        "run": "Snapshot the code and queue a run of a step.",
        "ps": "The queue: newest runs first.",
        "show": "The whole record of a run, in ten boxes.",
        "why": "Why a run waits, runs where it runs, or ended as it did.",
        "logs": "The log of a run, live with -f.",
        "exec": "A shell, or a command, beside a running attempt.",
        "forward": "A port of a running attempt, on this machine.",
        "stop": "Ask a run to end: signal, grace, kill.",
    },
    "Again": {
        "diff": "What differs between two runs, box by box.",
        "rerun": "The same run again, from its record.",
        "reproduce": "Run it again, and say whether the same came out.",
        "code": "The exact code of a run, committed or not; -d writes it.",
    },
    "Files": {
        "outputs": "What a run left behind; -d downloads it.",
        "get": "Download a file by datum:// reference or SHA-256.",
        "put": "Upload a file and give its datum:// reference.",
        "datasets": "Datasets, their versions and files.",
        "models": "Models, their versions and files.",
        "trace": "Where a file, run or code tree came from.",
        "impact": "What a file, run or code tree touched.",
    },
    "Yard": {
        "cost": "What a run or project cost, term by term.",
        "price": "The price book.",
        "gpus": "Every GPU: who holds it, utilisation, memory, power.",
        "nodes": "Every machine with a runner agent.",
        "history": "Every event, and how things stood at any moment.",
        "secret": "Secrets that the runs of a project get as environment variables.",
        "context": "Which yard to talk to.",
    },
}
_OF_A_YARD = frozenset({"up", "down", "status", "demo", "people"})
_OF_THE_LOG = frozenset({"runyard_eventlog", "runyard_replay", "asyncpg"})
"""What only the extra ``log`` installs."""
_UNWRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
_BUILT_IN = {name: text for section in COMMANDS.values() for name, text in section.items()}


class YardGroup(click.Group):
    """The commands, each imported when it is called for."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; that nobody reads on is no failure of it, as click would have it."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _read_by_nobody()
            ctx.exit(ExitCode.DONE)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Name every command."""
        from runyard_cli.plugins import plugin_names

        return [*_BUILT_IN, *(name for name in plugin_names() if name not in _BUILT_IN)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in _BUILT_IN:
            # Looking for other packages costs 40 ms, which built-in commands need not pay.
            from runyard_cli.plugins import load_plugin

            command = load_plugin(cmd_name)
            if command is None and cmd_name in _OF_A_YARD:
                raise click.UsageError(f"`runyard {cmd_name}` comes with runyard-embedded, where a yard runs")
            return command
        built_in: click.Command = importlib.import_module(f"runyard_cli.commands.{cmd_name}").command
        return built_in

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Name commands for a shell, as click would, but without an import of each: a person waits."""
        from click.shell_completion import CompletionItem

        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=_BUILT_IN.get(name)) for name in names]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section."""
        plugins: dict[str, str] = {}
        for name in self.list_commands(ctx):
            if name not in _BUILT_IN:
                plugins[name] = _plugin_help(name)
        sections = {**({"This machine": plugins} if plugins else {}), **COMMANDS}
        for title, section in sections.items():
            with formatter.section(title):
                formatter.write_dl(list(section.items()))


def _plugin_help(name: str) -> str:
    from runyard_cli.plugins import BrokenPluginError, load_plugin

    try:
        command = load_plugin(name)
    except BrokenPluginError as error:
        return f"({error})"
    return command.get_short_help_str(60) if command is not None else ""


@click.group(
    cls=YardGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="runyard-cli", prog_name="runyard")
def runyard() -> None:
    """Run deep-learning work on your own machines, and remember everything about it.

    RUN is "12" or "#12" (this project's counter), "latest", "digits#12", or a run id or its beginning.
    """


def main() -> NoReturn:
    """Run the command line."""
    _open_what_was_closed()
    expect(sys.argv[1:], os.environ)
    try:
        code = runyard.main(prog_name="runyard", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("\n")
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        _read_by_nobody()
        code = ExitCode.DONE
    except click.ClickException as error:
        _explain_usage(error)
    except Exception as error:  # noqa: BLE001 - the top: decides what people see
        _explain(error)
    raise SystemExit(int(code or 0))


def _open_what_was_closed() -> None:
    """Put nothing in the place of a stream that whoever started us closed: no socket may take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we run


def _read_by_nobody() -> None:
    """Let what is still to be written go nowhere: the interpreter must not complain of it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain_usage(error: click.ClickException) -> NoReturn:
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        note(error.format_message())
        raise SystemExit(int(ExitCode.USAGE))
    advice = f"Try `{context.command_path} --help`." if context is not None else ""
    # Some of the parser's sentences are several lines: an error here is one.
    fail(ExitCode.USAGE, "WRONG_USAGE", " ".join(error.format_message().split()), advice)


def _explain(error: Exception) -> NoReturn:
    # Imported here: only what has failed pays for it.
    from runyard_cli.plugins import BrokenPluginError
    from runyard_client.errors import ClientError
    from runyard_core.errors import RunyardError

    if isinstance(error, ClientError):
        explain_client_error(error)
    if isinstance(error, RunyardError):
        fail(ExitCode.USAGE, error.code, error.message)
    if isinstance(error, ModuleNotFoundError) and error.name in _OF_THE_LOG:
        fail(
            ExitCode.USAGE,
            "NOT_INSTALLED",
            "this reads or writes the log itself, for which a part of runyard is not installed here",
            "pip install 'runyard-cli[log]'; the yard's own machine has it.",
        )
    if isinstance(error, BrokenPluginError):
        fail(ExitCode.BUG, "BROKEN_PLUGIN", str(error), "Install its package again.")
    if os.environ.get("RUNYARD_DEBUG"):
        raise error
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _UNWRITTEN):
        _explain_file(error)
    if isinstance(error, FileNotFoundError) and _folder_is_gone():
        what = "the folder in which this was called is gone"
        fail(ExitCode.USAGE, "FILE_UNUSABLE", what, "Go to one that is there.")
    fail(
        ExitCode.BUG,
        "INTERNAL",
        f"a mistake in runyard itself: {type(error).__name__}: {error}",
        "RUNYARD_DEBUG=1 shows where; please report it.",
    )


def _folder_is_gone() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _explain_file(error: OSError) -> NoReturn:
    """End with what the machine says of a file, a folder or the disk: no mistake of this program."""
    try:
        sys.stdout.flush()
    except OSError:
        # What is left of it would be tried again at exit.
        _read_by_nobody()
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    advice = "RUNYARD_DEBUG=1 shows what it was needed for."
    fail(ExitCode.USAGE, "FILE_UNUSABLE", f"{where}{error.strerror}", advice)
