"""``runyard exec RUN [-- COMMAND]``: a shell, or a command, beside a running attempt."""

from __future__ import annotations

import os
import sys

import click

from runyard_cli.examples import examples
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import output_option
from runyard_cli.session import converse
from runyard_cli.terminal import Terminal
from runyard_client import Client


@click.command(
    "exec",
    epilog=examples("exec latest", "exec 3 -- nvidia-smi", "exec latest -- sh -c 'ls $VH_OUTPUTS_DIR'"),
)
@click.argument("run")
@click.argument("command_words", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
@project_option
@click.option(
    "-t/-T",
    "--tty/--no-tty",
    "wants_terminal",
    default=None,
    help="With a terminal or not; by default when this is one.",
)
@output_option
def command(
    run: str, command_words: tuple[str, ...], project: str | None, wants_terminal: bool | None
) -> int:
    """Open a shell beside the running attempt of RUN, or run COMMAND there; its exit status is ours.

    It finds the folders, variables and limits of the run's program, and ends with it. Without a terminal,
    input, output and errors are passed as three streams, so that pipes work.
    """
    if wants_terminal is None:
        wants_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    elif wants_terminal and not sys.stdin.isatty():
        raise click.UsageError("-t needs a terminal to pass on, and standard input is none")
    name = full_run_name(run, project)
    terminal = Terminal(sys.stdin.fileno(), os.environ.get("TERM", "")) if wants_terminal else None

    async def work(client: Client) -> int:
        # Imported here: usage errors should not pay for it.
        from runyard_cli.exec_session import ExecSession

        return await ExecSession(client, terminal).run(name, command_words)

    return converse(work)
