"""``history what-if``: recorded leases with another price book, recorded decisions with today's code."""

from __future__ import annotations

import json
from pathlib import Path

import click
from google.protobuf.json_format import ParseDict, ParseError

from runyard.cost.v1.types_pb2 import Price
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import PriceAgainRequest, PriceAgainResponse
from runyard_cli.examples import examples
from runyard_cli.history.deciding import decide_again, say_decided
from runyard_cli.history.moments import MOMENT
from runyard_cli.history.source import Source, ask, direct_option
from runyard_cli.history.states import say_repriced
from runyard_cli.names import default_project, full_run_name, looks_like_run, may_be_id, project_option
from runyard_cli.output import is_json, output_option, say_json


@click.command(
    "what-if",
    epilog=examples(
        "history what-if digits --prices book.json",
        "history what-if digits#2 --prices one-line.json --keep --at 40",
        "history what-if --decide",
    ),
)
@click.argument("name", metavar="[RUN|PROJECT]", required=False)
@click.option(
    "--prices",
    "book",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help='Price again with this book, as `runyard price list --output json` writes it: {"prices": [...]}.',
)
@click.option("--keep", is_flag=True, help="Add the file's lines to the recorded book.")
@click.option("--decide", is_flag=True, help="Decide again with the code that is installed here.")
@click.option("--at", type=MOMENT, metavar="MOMENT", help="As of this position or time.")
@project_option
@direct_option
@output_option
def what_if(
    name: str | None,
    book: Path | None,
    keep: bool,
    decide: bool,
    at: AsOf | None,
    project: str | None,
    direct: bool,
) -> None:
    """Show what RUN or PROJECT would have cost with other prices, or what today's code would have decided.

    --prices prices every recorded lease of RUN or PROJECT (this folder's by default) again.

    --decide rebuilds every recorded command of runs, machines and projects from the events that it came to,
    decides on the state before it with the deciders that are installed here, and compares the events field by
    field. At every lease the planner also looks at the queue and the machines of that moment and says where
    it would have put the run. Without RUN or PROJECT: all of the yard.

    What --decide cannot see: commands that came to nothing, a run that the planner would have placed sooner,
    and whether a machine's stream was open (one that is attached counts as ready).
    """
    if decide == (book is not None):
        raise click.UsageError("give either --prices FILE or --decide")
    if book is None:
        wanted = full_run_name(name, project) if name and looks_like_run(name) else name or project or ""
        say_decided(ask(lambda source: decide_again(source, wanted, at or AsOf()), direct=direct))
        return
    request = PriceAgainRequest(prices=read_prices(book), keep_recorded_prices=keep, as_of=at or AsOf())
    if name is not None and (looks_like_run(name) or may_be_id(name)):
        request.run = full_run_name(name, project)
    else:
        request.project = name or default_project(project)
    answer = ask(lambda source: all_priced_again(source, request), direct=direct)
    if is_json():
        say_json(answer)
    else:
        say_repriced(answer)


async def all_priced_again(source: Source, request: PriceAgainRequest) -> PriceAgainResponse:
    """Ask for one page after the other; every one has the sums of all."""
    answer = page = await source.price_again(request)
    while page.has_more_runs:
        request.as_of.position = answer.position
        request.counted_to.CopyFrom(answer.counted_to)
        request.runs_skipped = len(answer.runs)
        page = await source.price_again(request)
        answer.runs.extend(page.runs)
    answer.has_more_runs = False
    return answer


def read_prices(path: Path) -> list[Price]:
    """Read a price book from a file.

    Raises:
        click.UsageError: it is not one.
    """
    try:
        content = json.loads(path.read_bytes())
        lines = content["prices"] if isinstance(content, dict) else content
        return [ParseDict(line, Price()) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ParseError) as error:
        raise click.UsageError(f"{path} is not a price book: {error}") from None
