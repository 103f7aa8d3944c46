"""``runyard cost``: what a run or project cost, and why."""

from __future__ import annotations

import click

from runyard.cost.v1.cost_service_pb2 import (
    GetProjectCostRequest,
    GetProjectCostResponse,
    GetRunCostRequest,
    GetRunCostResponse,
)
from runyard.run.v1.scheduler_service_pb2 import ListRunsRequest
from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode, fail
from runyard_cli.names import default_project, full_run_name, looks_like_run, may_be_id, project_option
from runyard_cli.output import is_json, output_option, safe, say, say_json
from runyard_cli.session import converse, get_run
from runyard_cli.words import duration_words, money_words, run_name
from runyard_client import Client, ClientError
from runyard_core.counted import count_words


@click.command("cost", epilog=examples("cost", "cost digits", "cost latest", "cost digits#3 --output json"))
@click.argument("name", metavar="[RUN|PROJECT]", required=False)
@project_option
@output_option
def command(name: str | None, project: str | None) -> None:
    """Show what RUN or PROJECT cost (this folder's project by default), with every term."""

    async def ask(client: Client) -> None:
        run = None
        if name is not None and (looks_like_run(name) or may_be_id(name)):
            try:
                run = await get_run(client, full_run_name(name, project))
            except ClientError as error:
                # A project may be called like the beginning of an id.
                if error.code != "NOT_FOUND" or looks_like_run(name):
                    raise
        if run is not None:
            of_run = await client.costs.GetRunCost(GetRunCostRequest(run_id=run.run_id))
            _say_run(run_name(run), of_run)
        else:
            named = name or default_project(project)
            of_project = await client.costs.GetProjectCost(GetProjectCostRequest(project=named))
            if not of_project.run_count and not await _has_runs(client, named):
                fail(
                    ExitCode.REFUSED,
                    "PROJECT_NOT_FOUND",
                    f"no project {named!r} has runs",
                    "`runyard ps` shows the runs of all projects.",
                )
            _say_project(named, of_project)

    converse(ask)


async def _has_runs(client: Client, project: str) -> bool:
    request = ListRunsRequest(page_size=1, filter=f'project="{project}"')
    return bool((await client.scheduler.ListRuns(request)).runs)


def _say_run(name: str, answer: GetRunCostResponse) -> None:
    if is_json():
        say_json(answer)
        return
    cost = answer.cost
    running = ", still running" if any(term.running for term in cost.terms) else ""
    say(f"{name} {money_words(cost.micro_usd)}{running}")
    if cost.left_out_term_count:
        say(f"  {count_words(cost.left_out_term_count, 'earlier term')}, too many for one answer")
    for term in cost.terms:
        say(safe(f"  {term.explanation}"))
    _say_times(cost.gpu_milliseconds, cost.node_milliseconds, has_unpriced_time=cost.has_unpriced_time)


def _say_project(name: str, answer: GetProjectCostResponse) -> None:
    if is_json():
        say_json(answer)
        return
    say(f"{name} {money_words(answer.micro_usd)}, {count_words(answer.run_count, 'run')}")
    _say_times(answer.gpu_milliseconds, answer.node_milliseconds, has_unpriced_time=answer.has_unpriced_time)


def _say_times(gpu_milliseconds: int, node_milliseconds: int, *, has_unpriced_time: bool) -> None:
    gpu_time, node_time = duration_words(gpu_milliseconds / 1000), duration_words(node_milliseconds / 1000)
    say(f"  GPU time {gpu_time}, node time {node_time}")
    if has_unpriced_time:
        say("  some of it has no price: `runyard price set` gives it one, also for the past (--from)")
