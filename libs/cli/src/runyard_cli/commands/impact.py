"""``runyard impact``: what a file, run or code tree touched."""

from __future__ import annotations

import click

from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.lineage.v1.lineage_service_pb2 import ImpactRequest, ImpactResponse
from runyard_cli.examples import examples
from runyard_cli.graph import asked_about, impact_lines, without_alias
from runyard_cli.history.moments import MOMENT
from runyard_cli.history.source import Source, ask, direct_option
from runyard_cli.names import project_option
from runyard_cli.output import is_json, note, output_option, say, say_json


@click.command(
    "impact",
    epilog=examples(
        "impact ./train.npz", "impact digits#1", "impact dataset://images/v3 --project digits --at 40"
    ),
)
@click.argument("name")
@project_option
@click.option("--depth", type=click.IntRange(1, 100), default=None, help="Steps to walk; 32 by default.")
@click.option("--at", type=MOMENT, metavar="MOMENT", help="As of this position or time.")
@direct_option
@output_option
def command(name: str, project: str | None, depth: int | None, at: AsOf | None, direct: bool) -> None:
    """Show what NAME went into: a file on disk (it is hashed), a SHA-256, a run, or a reference.

    References are datum://SHA256 or an alias, dataset://NAME/VERSION and model://NAME/NUMBER.

    It is answered by the log itself when no service answers, and from an imported one.
    """
    wanted = asked_about(name, project)
    request = ImpactRequest(depth_max=depth or 0, read=ReadOptions(as_of=at))

    async def walk(source: Source) -> ImpactResponse:
        request.name = await without_alias(source, wanted, project, at)
        return await source.impact(request)

    answer = ask(walk, direct=direct)
    if is_json():
        say_json(answer)
        return
    for line in impact_lines(answer.root, answer.edges):
        say(line)
    if answer.truncated:
        note("the walk was cut: --depth shows more")
