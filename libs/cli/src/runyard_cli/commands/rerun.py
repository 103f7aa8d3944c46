"""``runyard rerun RUN``: the same run again, from its record alone."""

from __future__ import annotations

from collections.abc import Sequence

import click

from runyard.record.v1.record_service_pb2 import Record
from runyard.run.v1.scheduler_service_pb2 import SubmitRunRequest, SubmitRunResponse
from runyard_cli.again import spec_again
from runyard_cli.difference_lines import get_record
from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode
from runyard_cli.follow import follow_to_end, say_end
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import is_json, note, output_option, say, say_json
from runyard_cli.session import converse
from runyard_cli.words import run_name
from runyard_client import Client
from runyard_contracts.ids import uuid7


@click.command("rerun", epilog=examples("rerun latest", "rerun digits#2 --follow --title 'once more'"))
@click.argument("run")
@project_option
@click.option("--title", default="", metavar="TEXT", help="A title for people.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag; repeat for several.")
@click.option("-f", "--follow", is_flag=True, help="Show the log until the end; exit code 1 if it fails.")
@output_option
def command(run: str, project: str | None, title: str, tags: Sequence[str], follow: bool) -> None:
    """Queue RUN again, as it was: code, parameters, input files by SHA-256, image by digest.

    Nothing of this folder is used. `runyard reproduce` also says whether the same came out.
    """

    async def work(client: Client) -> ExitCode:
        record = await get_record(client, full_run_name(run, project))
        answer = await submit_again(client, record, title=title, tags=tags)
        if follow:
            return say_end(await follow_to_end(client, answer.run))
        if is_json():
            say_json(answer)
        else:
            name = run_name(answer.run)
            say(f"{name} queued  {answer.run.run_id}")
            note(f"`runyard diff '{run_name(record.run)}' '{name}'` compares them when it is over")
        return ExitCode.DONE

    raise SystemExit(int(converse(work)))


async def submit_again(
    client: Client, record: Record, *, title: str = "", tags: Sequence[str] = ()
) -> SubmitRunResponse:
    """Queue a run again in its project.

    Raises:
        ClientError: the yard refuses it.
    """
    return await client.scheduler.SubmitRun(
        SubmitRunRequest(
            request_id=uuid7(),
            project=record.run.project,
            spec=spec_again(record),
            title=title or f"again: {run_name(record.run)}",
            tags=tags,
        )
    )
