"""``runyard logs RUN``: what a run wrote."""

from __future__ import annotations

import click

from runyard.metric.v1.metric_service_pb2 import ListLogLinesRequest
from runyard_cli.examples import examples
from runyard_cli.follow import Follower
from runyard_cli.loglines import say_line
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import note, output_option
from runyard_cli.session import converse, get_run
from runyard_cli.words import run_name
from runyard_client import Client

_PAGE_LINES = 1000


@click.command(
    "logs", epilog=examples("logs latest -f", "logs 3 --tail 50 --times", "logs digits#2 --attempt 1")
)
@click.argument("run")
@project_option
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until the run is over.")
@click.option("--tail", type=click.IntRange(1, 10**9), metavar="N", help="Only the last N lines.")
@click.option("--attempt", type=click.IntRange(1, 10**9), metavar="N", help="By default the last.")
@click.option("--times", is_flag=True, help="Before each line: when it was read, and its stream.")
@output_option
def command(
    run: str, project: str | None, follow: bool, tail: int | None, attempt: int | None, times: bool
) -> None:
    """Show the log of RUN. With --output json: one JSON object a line."""
    if follow and attempt is not None:
        raise click.UsageError("--follow and --attempt do not go together: an earlier attempt is over")
    name = full_run_name(run, project)

    async def read(client: Client) -> None:
        found = await get_run(client, name)
        request = ListLogLinesRequest(
            run_id=found.run_id,
            attempt=attempt or 0,
            page_size=min(tail or _PAGE_LINES, _PAGE_LINES),
            tail_line_count=tail or 0,
        )
        last_number = 0
        while True:
            page = await client.metrics.ListLogLines(request)
            for line in page.lines:
                last_number = line.number
                say_line(line, times=times)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        if follow:
            follower = Follower(client, found, after_line_number=last_number, times=times)
            await follower.follow()
        elif not last_number:
            note(
                f"{run_name(found)} has written nothing yet"
                if not found.HasField("finished_at")
                else "no lines"
            )

    converse(read)
