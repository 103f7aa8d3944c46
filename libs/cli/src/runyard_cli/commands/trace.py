"""``runyard trace``: where a file, run or code tree came from."""

from __future__ import annotations

import click

from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.lineage.v1.lineage_service_pb2 import TraceRequest, TraceResponse
from runyard_cli.examples import examples
from runyard_cli.graph import asked_about, trace_lines, without_alias
from runyard_cli.history.moments import MOMENT
from runyard_cli.history.source import Source, ask, direct_option
from runyard_cli.names import project_option
from runyard_cli.output import is_json, note, output_option, say, say_json


@click.command(
    "trace", epilog=examples("trace ./model.npz", "trace datum://5d0266a9", "trace digits#3 --at 40")
)
@click.argument("name")
@project_option
@click.option("--depth", type=click.IntRange(1, 100), default=None, help="Steps to walk; 32 by default.")
@click.option("--at", type=MOMENT, metavar="MOMENT", help="As of this position or time.")
@direct_option
@output_option
def command(name: str, project: str | None, depth: int | None, at: AsOf | None, direct: bool) -> None:
    """Show where NAME came from: a file on disk (it is hashed), a SHA-256, a run, or a reference.

    References are datum://SHA256 or an alias, dataset://NAME/VERSION and model://NAME/NUMBER.

    It is answered by the log itself when no service answers, and from an imported one.
    """
    wanted = asked_about(name, project)
    request = TraceRequest(depth_max=depth or 0, read=ReadOptions(as_of=at))

    async def walk(source: Source) -> TraceResponse:
        request.name = await without_alias(source, wanted, project, at)
        return await source.trace(request)

    answer = ask(walk, direct=direct)
    if is_json():
        say_json(answer)
        return
    for line in trace_lines(answer.root, answer.edges):
        say(line)
    if answer.truncated:
        note("the walk was cut: --depth shows more")
