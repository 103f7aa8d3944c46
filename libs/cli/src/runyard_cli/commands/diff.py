"""``runyard diff RUN OTHER``: what differs between two runs, box by box."""

from __future__ import annotations

import click

from runyard.record.v1.record_service_pb2 import Record
from runyard_cli.comparison import Compared, differences
from runyard_cli.difference_lines import compared, difference_lines, difference_object, get_record
from runyard_cli.examples import examples
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import is_json, output_option, say, say_json_object
from runyard_cli.session import converse
from runyard_cli.words import run_name
from runyard_client import Client


@click.command("diff", epilog=examples("diff 2 3", "diff digits#1 digits#2 --output json"))
@click.argument("run")
@click.argument("other")
@project_option
@output_option
def command(run: str, other: str, project: str | None) -> None:
    """Show what differs between RUN and OTHER in each of the ten boxes.

    Code is compared file by file, packages by version, outputs byte for byte. A box in which nothing
    differs is left out.
    """

    async def work(client: Client) -> tuple[Compared, Compared]:
        records: list[Record] = [
            await get_record(client, full_run_name(each, project)) for each in (run, other)
        ]
        return await compared(client, *records)

    first, second = converse(work)
    found = differences(first, second)
    if is_json():
        say_json_object(difference_object(first.record, second.record, found))
        return
    names = f"{run_name(first.record.run)} -> {run_name(second.record.run)}"
    say(names if found else f"{names}: nothing differs")
    for line in difference_lines(found):
        say(line)
