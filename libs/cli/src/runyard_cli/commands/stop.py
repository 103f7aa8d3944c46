"""``runyard stop RUN``: ask a run to end."""

from __future__ import annotations

import click

from runyard.run.v1.scheduler_service_pb2 import StopRunRequest, StopRunResponse
from runyard_cli.examples import examples
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import is_json, output_option, say, say_json
from runyard_cli.session import converse
from runyard_cli.words import run_name, state_word
from runyard_client import Client
from runyard_contracts.ids import uuid7


@click.command("stop", epilog=examples("stop latest", "stop digits#2 --reason 'wrong data'"))
@click.argument("run")
@project_option
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in its record.")
@output_option
def command(run: str, project: str | None, reason: str) -> None:
    """Ask RUN to end: a signal first, and a kill when its time of grace is over. Asking again is fine."""
    request = StopRunRequest(request_id=uuid7(), name=full_run_name(run, project), reason=reason)

    async def ask(client: Client) -> StopRunResponse:
        return await client.scheduler.StopRun(request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
    else:
        word, _ = state_word(answer.run)
        say(f"{run_name(answer.run)} {word}")
