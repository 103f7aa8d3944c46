"""``runyard reproduce RUN``: run it again from its record, and say whether the same came out."""

from __future__ import annotations

import json

import click

from runyard.record.v1.record_service_pb2 import Record
from runyard_cli.commands.rerun import submit_again
from runyard_cli.comparison import COST, END, LOGS, MODEL, RESULTS, STATISTICS, differences, output_paths
from runyard_cli.difference_lines import compared, difference_lines, difference_object, get_record
from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode, fail
from runyard_cli.follow import follow_to_end
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import is_json, note, output_option, say
from runyard_cli.session import converse
from runyard_cli.words import run_name
from runyard_client import Client
from runyard_core.counted import count_words

_WHAT_CAME_OUT = frozenset({END, MODEL, RESULTS})
# Never the same twice, and nobody's matter here.
_MEASURED = frozenset({COST, LOGS, STATISTICS})


@click.command("reproduce", epilog=examples("reproduce latest", "reproduce digits#2 --output json"))
@click.argument("run")
@project_option
@output_option
def command(run: str, project: str | None) -> None:
    """Queue RUN again as `runyard rerun` does, follow it, and compare what came out.

    Outputs are compared byte for byte, results digit for digit. Exit code 0 when they are the same, 1 when
    not: what else differed (packages, hardware) is said, too.
    """
    raise SystemExit(int(converse(lambda client: _reproduce(client, full_run_name(run, project)))))


async def _reproduce(client: Client, name: str) -> ExitCode:
    record = await get_record(client, name)
    if not record.run.HasField("finished_at"):
        fail(
            ExitCode.REFUSED,
            "RUN_NOT_FINISHED",
            f"{run_name(record.run)} is not over: there is nothing to compare with",
        )
    require_whole(record)
    answer = await submit_again(client, record)
    if not is_json():
        note(f"{run_name(answer.run)} is {run_name(record.run)} again")
    await follow_to_end(client, answer.run)
    again = await get_record(client, answer.run.run_id)
    require_whole(again)
    found = [
        each for each in differences(*await compared(client, record, again)) if each.box not in _MEASURED
    ]
    same = not any(each.box in _WHAT_CAME_OUT for each in found)
    if is_json():
        # The last of the lines that following has written.
        say(json.dumps({"reproduced": same, **difference_object(record, again, found)}, ensure_ascii=False))
        return ExitCode.DONE if same else ExitCode.FAILED
    for line in difference_lines(found):
        say(line)
    files = count_words(len(output_paths(record)), "output")
    results = count_words(len(record.results), "result")
    names = f"{run_name(again.run)} of {run_name(record.run)}"
    if same:
        say(f"REPRODUCED: {names}, {files} byte for byte, {results} digit for digit")
        return ExitCode.DONE
    say(f"NOT REPRODUCED: {names}, which had {files} and {results}")
    return ExitCode.FAILED


def require_whole(record: Record) -> None:
    """End where boxes of a record are missing: what is not there would be the same in both."""
    if record.missing:
        fail(
            ExitCode.FAILED,
            "RECORD_INCOMPLETE",
            f"{run_name(record.run)} cannot be compared: {record.missing[0]}",
            "`runyard status` shows which service does not answer, `runyard show` what is missing.",
        )
