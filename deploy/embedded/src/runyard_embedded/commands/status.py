"""``runyard status``: each process of this home: up, version, pid, port, lag."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode, fail
from runyard_cli.output import Style, is_json, output_option, say, say_json_object
from runyard_cli.table import Cell, Row, say_table
from runyard_embedded.home import Home
from runyard_embedded.state import Phase

if TYPE_CHECKING:
    from runyard_embedded.inspection import ProcessReport

HEADINGS = ("PROCESS", "STATE", "VERSION", "PID", "PORT", "RESTARTS", "LAG", "WHY")
STYLES = {Phase.UP: Style.GOOD, Phase.FAILED: Style.BAD}


@click.command("status", epilog=examples("status", "status --output json"))
@output_option
def command() -> None:
    """Show each process: state, version, pid, port, and how far its read models are behind the log."""
    from runyard_embedded.inspection import inspect

    home = Home.from_environment()
    report = asyncio.run(inspect(home))
    if report is None:
        advice = "`runyard up` starts it."
        fail(ExitCode.UNREACHABLE, "YARD_NOT_UP", f"no yard is up under {home.folder}", advice)
    if is_json():
        say_json_object(asdict(report))
    else:
        say_table(HEADINGS, [_row(process) for process in report.processes], right=(3, 4, 5, 6))
        head = "cannot be read" if report.log_head is None else f"is at {report.log_head}"
        say(f"The log {head}. Home: {report.home}, supervisor {report.supervisor_pid}.")
    if any(process.state.phase is not Phase.UP for process in report.processes):
        raise SystemExit(int(ExitCode.FAILED))


def _row(process: ProcessReport) -> Row:
    state = process.state
    return (
        state.name,
        Cell(state.phase.value, STYLES.get(state.phase, Style.BUSY)),
        state.version,
        "" if state.pid is None else str(state.pid),
        "" if state.port is None else str(state.port),
        str(state.restarts),
        "" if process.lag is None else str(process.lag),
        state.detail,
    )
