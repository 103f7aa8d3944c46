"""``runyard ps``: the queue. Imports as little as it can: people type it often."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import click

from runyard.run.v1.scheduler_service_pb2 import ListRunsRequest, ListRunsResponse
from runyard.run.v1.types_pb2 import Run, RunState
from runyard_cli.examples import examples
from runyard_cli.output import is_json, output_option, say, say_json
from runyard_cli.session import converse
from runyard_cli.table import Cell, Row, say_table
from runyard_cli.words import cause_words, duration_words, run_name, run_seconds, state_word
from runyard_client import Client

_STATES = ("queued", "starting", "running", "stopping", "finishing", "finished")


@click.command("ps", epilog=examples("ps", "ps --state queued", "ps --project digits --tag baseline -n 100"))
@click.option("--project", metavar="NAME", help="Only this project.")
@click.option("--state", type=click.Choice(_STATES), help="Only runs in this state.")
@click.option("--step", metavar="NAME", help="Only runs of this step.")
@click.option("--tag", metavar="TAG", help="Only runs with this tag.")
@click.option("--node", metavar="NODE", help="Only runs on this machine.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="How many, newest first.",
)
@output_option
def command(
    project: str | None, state: str | None, step: str | None, tag: str | None, node: str | None, limit: int
) -> None:
    """Show the queue of the yard: the newest runs first."""
    terms = {"project": project, "step": step, "tag": tag, "node": node}
    wanted = [f'{key}="{_quoted(value)}"' for key, value in terms.items() if value is not None]
    if state is not None:
        wanted.append(f"state={state.upper()}")
    request = ListRunsRequest(page_size=limit, filter=" AND ".join(wanted), brief=not is_json())

    async def ask(client: Client) -> ListRunsResponse:
        return await newest(client.scheduler.ListRuns, request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
    elif answer.runs:
        now = time.time()
        headings = ("RUN", "STEP", "STATE", "FOR", "NODE", "WHY")
        say_table(headings, [row_of(run, now) for run in answer.runs], right=(3,))
    else:
        say("no runs" + (" like that" if wanted else " yet: `runyard run STEP` queues one"))


async def newest(
    ask: Callable[[ListRunsRequest], Awaitable[ListRunsResponse]], request: ListRunsRequest
) -> ListRunsResponse:
    """Give as many runs as a request wants: a page may end earlier, where an answer can hold no more.

    Args:
        ask: the method of the scheduler.
        request: for the first page.

    Raises:
        ClientError: as the method.
    """
    answer = await ask(request)
    while answer.next_page_token and (left := request.page_size - len(answer.runs)) > 0:
        following = ListRunsRequest()
        following.CopyFrom(request)
        following.page_size, following.page_token = left, answer.next_page_token
        answer.next_page_token = ""
        answer.MergeFrom(await ask(following))
    return answer


def row_of(run: Run, now: float) -> Row:
    """Give the line of a run; ``now`` in seconds since 1970."""
    word, style = state_word(run)
    seconds = run_seconds(run, now)
    why = cause_words(run.cause)
    if run.state == RunState.RUN_STATE_QUEUED:
        seconds = max(0.0, now - run.queued_at.seconds)
        why = run.waiting_reason
    return (
        run_name(run),
        run.spec.step,
        Cell(word, style),
        duration_words(seconds) if seconds is not None else "",
        run.attempts[-1].node_id if run.attempts else "",
        why or run.status_detail or run.title,
    )


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
