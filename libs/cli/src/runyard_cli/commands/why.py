"""``runyard why RUN``: why it waits, runs where it runs, or ended as it did, each step naming its event."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import click

from runyard.history.v1.history_service_pb2 import ExplainRunRequest, ExplainRunResponse
from runyard.run.v1.types_pb2 import Run, RunState
from runyard_cli.examples import examples
from runyard_cli.history.lines import short_type
from runyard_cli.names import full_run_name, name_here, project_option
from runyard_cli.output import Style, is_json, output_option, safe, say, say_json_object, styled
from runyard_cli.session import converse, get_run
from runyard_cli.words import cause_words, duration_words, moment, run_name, run_seconds, state_word
from runyard_client import Client


@click.command("why", epilog=examples("why latest", "why digits#2"))
@click.argument("run")
@project_option
@output_option
def command(run: str, project: str | None) -> None:
    """Say why RUN waits, runs where it runs, or ended as it did.

    Below it every change of its state, oldest first, with the event that says so; `runyard history explain`
    shows their causes, too.
    """
    name = full_run_name(run, project)

    async def ask(client: Client) -> tuple[Run, ExplainRunResponse]:
        found = await get_run(client, name)
        request = ExplainRunRequest(name=found.run_id, field="state")
        return found, await client.history.ExplainRun(request)

    found, explained = converse(ask)
    if is_json():
        from google.protobuf.json_format import MessageToJson

        whole = {"run": found, "explained": explained}
        say_json_object(
            {
                part: json.loads(MessageToJson(message, preserving_proto_field_name=True))
                for part, message in whole.items()
            }
        )
        return
    for line in why_lines(found, explained, time.time()):
        say(line)


def why_lines(run: Run, explained: ExplainRunResponse, now: float) -> Iterator[str]:
    """Say it in a sentence, then event by event; ``now`` in seconds since 1970."""
    word, style = state_word(run)
    yield f"{run_name(run)} {styled(word, style)}{safe(_reason(run, now))}"
    for each in explained.explanations:
        envelope = each.event.envelope
        at = f"{moment(envelope.recorded_at):%m-%d %H:%M:%S}"
        yield safe(f"{envelope.position:>8} {at} {short_type(envelope.type)}: {each.sentence}")
    if run.state == RunState.RUN_STATE_QUEUED:
        name = name_here(run.project, run.number)
        yield styled(f"`runyard stop {name}` takes it out of the queue", Style.FAINT)


def _reason(run: Run, now: float) -> str:
    match run.state:
        case RunState.RUN_STATE_QUEUED:
            return f": {run.waiting_reason or 'it is about to be placed'}"
        case RunState.RUN_STATE_FINISHED:
            return f": {words}" if (words := cause_words(run.cause)) else ""
        case _:
            attempt = run.attempts[-1]
            gpus = f", {', '.join(attempt.gpu_uuids)}" if attempt.gpu_uuids else ""
            seconds = run_seconds(run, now)
            since = f" for {duration_words(seconds)}" if seconds is not None else ""
            away = "" if attempt.reachable else "; its node is not heard from"
            return f" on {attempt.node_id}{gpus}{since}{away}"
