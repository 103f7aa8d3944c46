"""``history timeline, as-of, explain, diff, effects``: one question each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1 import history_service_pb2 as pb
from runyard_cli.examples import examples
from runyard_cli.history.lines import diff_lines, effects_lines, explain_lines, timeline_lines
from runyard_cli.history.moments import MOMENT, THINGS, subject_of
from runyard_cli.history.source import Source, ask, direct_option
from runyard_cli.history.states import holding_runs, say_state
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import is_json, output_option, say, say_json, say_json_line
from runyard_cli.words import run_name

_Command = Callable[..., Any]


def _page_options(limits: str) -> Callable[[_Command], _Command]:
    """Give a question ``--limit`` and ``--skip``: its answer may be longer than anyone reads."""
    limit = click.option(
        "-n", "--limit", type=click.IntRange(1, 10_000), default=1_000, show_default=True, help=limits
    )
    skip = click.option(
        "--skip", type=click.IntRange(0, 10**9), default=0, metavar="N", help="Leave out the first N of them."
    )
    return lambda command: limit(skip(command))


@click.command(
    "timeline",
    epilog=examples(
        "history timeline digits#2 --with-causes",
        "history timeline gpu-a --from '2026-11-02 14:00' --to '2026-11-02 15:00'",
        "history timeline model://resnet/2 --domain-only",
        "history timeline ./model.npz",
    ),
)
@click.argument("name", metavar="RUN|NODE|FILE|MODEL|DATASET")
@click.option("--with-causes", is_flag=True, help="Below each event its chain of causes.")
@click.option("--from", "begin", type=MOMENT, metavar="MOMENT", help="From this position or time on.")
@click.option("--to", "end", type=MOMENT, metavar="MOMENT", help="Up to this position or time.")
@click.option("--domain-only", is_flag=True, help="Without samples, metrics and log lines.")
@project_option
@direct_option
@output_option
def timeline(
    name: str,
    with_causes: bool,
    begin: AsOf | None,
    end: AsOf | None,
    domain_only: bool,
    project: str | None,
    direct: bool,
) -> None:
    """Show everything that happened to RUN, NODE, FILE, MODEL or DATASET, in one order over both lanes.

    FILE is one on disk (it is hashed), a SHA-256, or a reference or alias like datum://best; MODEL is
    model://NAME or model://NAME/NUMBER, DATASET dataset://NAME or dataset://NAME/VERSION.

    A place like 41/t7 is batch 7 of the telemetry lane, which came when 41 was the newest event. Times are
    the log's clock, in this machine's zone; the next column is how much earlier, by the producer's own clock,
    it happened.
    """
    request = pb.ReadTimelineRequest(
        subject=subject_of((name,), project), with_causes=with_causes, domain_only=domain_only
    )
    if begin is not None:
        request.begin.CopyFrom(begin)
    if end is not None:
        request.end.CopyFrom(end)

    async def show(source: Source) -> None:
        async for entry in source.timeline(request):
            if is_json():
                say_json_line(entry)
                continue
            for line in timeline_lines(entry):
                say(line)

    ask(show, direct=direct)


@click.command(
    "as-of",
    epilog=examples(
        "history as-of '2026-11-02 14:00' queue",
        "history as-of 40 digits#2",
        "history as-of '20 min ago' gpus",
        "history as-of 2026-11-02T14:00+00:00 cost digits",
        "history as-of now project digits",
        "history as-of 40 dataset://images/newest",
    ),
)
@click.argument("at", type=MOMENT, metavar="TIME|POSITION")
@click.argument("words", nargs=-1, metavar=THINGS)
@_page_options("How many of the runs that waited; of `gpus`: of the nodes.")
@project_option
@direct_option
@output_option
def as_of(at: AsOf, words: tuple[str, ...], limit: int, skip: int, project: str | None, direct: bool) -> None:
    """Show anything as it was at TIME or POSITION.

    RUN, NODE, FILE, MODEL and DATASET as for `runyard history timeline`; the queue, of all or of a PROJECT;
    gpus and who held them; prices; the cost of a PROJECT; what is kept under a project: names of secrets,
    aliases, datasets, models. Nothing named: queue and GPUs.

    It is what the yard knew at that moment, folded from the log. TIME is ISO 8601, of this machine's zone
    unless it says; 14:05 is when it last was that, "2h ago" and "now" are understood, too.
    """
    request = pb.GetStateAsOfRequest(as_of=at, subject=subject_of(words, project))
    if request.subject.kind == pb.SubjectKind.SUBJECT_KIND_GPUS:
        request.nodes_max, request.nodes_skipped = limit, skip
    else:
        request.waiting_max, request.waiting_skipped = limit, skip
    answer, run_names = ask(lambda source: _state(source, request), direct=direct)
    if is_json():
        say_json(answer)
    else:
        say_state(answer, skipped=skip, run_names=run_names)


async def _state(
    source: Source, request: pb.GetStateAsOfRequest
) -> tuple[pb.GetStateAsOfResponse, dict[str, str]]:
    """Ask for a state, and what the runs are called that hold something in it."""
    answer = await source.state(request)
    run_names: dict[str, str] = {}
    for run_id in [] if is_json() else holding_runs(answer.gpus):
        subject = pb.Subject(kind=pb.SubjectKind.SUBJECT_KIND_RUN, name=run_id)
        at = AsOf(position=answer.position)
        run_names[run_id] = run_name(
            (await source.state(pb.GetStateAsOfRequest(as_of=at, subject=subject))).run
        )
    return answer, run_names


@click.command(
    "explain",
    epilog=examples(
        "history explain digits#2 --field state", "history explain latest --field attempts[2].cause"
    ),
)
@click.argument("name", metavar="RUN")
@click.option(
    "--field", default="", metavar="FIELD", help="state, outcome, cause.code, attempts; default: all."
)
@click.option("--at", type=MOMENT, metavar="MOMENT", help="As of this position or time.")
@_page_options("How many events.")
@project_option
@direct_option
@output_option
def explain(
    name: str, field: str, at: AsOf | None, limit: int, skip: int, project: str | None, direct: bool
) -> None:
    """Show the events that changed a field of RUN, each with its causes up to the command and who asked."""
    request = pb.ExplainRunRequest(
        name=full_run_name(name, project),
        field=field,
        as_of=at or AsOf(),
        explanations_max=limit,
        explanations_skipped=skip,
    )
    answer = ask(lambda source: source.explain(request), direct=direct)
    if is_json():
        say_json(answer)
        return
    for line in explain_lines(answer, skipped=skip):
        say(line)


@click.command(
    "diff",
    epilog=examples(
        "history diff --from '2026-11-02 14:00' --to '2026-11-02 15:00'",
        "history diff --from 40 --to 41 cost digits",
        "history diff --from 12 digits#2",
    ),
)
@click.option("--from", "begin", type=MOMENT, required=True, metavar="MOMENT", help="Position or time.")
@click.option("--to", "end", type=MOMENT, default="now", show_default=True, metavar="MOMENT")
@click.argument("words", nargs=-1, metavar=THINGS)
@_page_options("How many of the fields that differ.")
@project_option
@direct_option
@output_option
def diff(
    begin: AsOf, end: AsOf, words: tuple[str, ...], limit: int, skip: int, project: str | None, direct: bool
) -> None:
    """Show what differs between two moments, field by field, and the events between them by type.

    What may be named is as for `runyard history as-of`.
    """
    request = pb.DiffStatesRequest(
        begin=begin,
        end=end,
        subject=subject_of(words, project),
        changes_max=limit,
        changes_skipped=skip,
    )
    answer = ask(lambda source: source.diff(request), direct=direct)
    if is_json():
        say_json(answer)
        return
    for line in diff_lines(answer, skipped=skip):
        say(line)


@click.command("effects", epilog=examples("history effects 20", "history effects 01a204d9-e09a --limit 50"))
@click.argument("event_id", metavar="EVENT")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 10_000), default=1_000, show_default=True, help="How many."
)
@click.option("--at", type=MOMENT, metavar="MOMENT", help="What was there by this position or time.")
@direct_option
@output_option
def effects(event_id: str, limit: int, at: AsOf | None, direct: bool) -> None:
    """Show everything that EVENT caused, and what else its request did later.

    EVENT is the id of an event, its first 8 digits or more, or its position.
    """
    request = pb.ListEffectsRequest(event_id=event_id, event_count_max=limit, as_of=at or AsOf())
    answer = ask(lambda source: source.effects(request), direct=direct)
    if is_json():
        say_json(answer)
        return
    for line in effects_lines(answer):
        say(line)
