"""``runyard trace``: where a file, run or code tree came from."""

from __future__ import annotations

import click

from runyard.event.v1.read_pb2 import AsOf
from runyard.lineage.v1.lineage_service_pb2 import TraceRequest
from runyard_cli.examples import examples
from runyard_cli.graph import trace_lines
from runyard_cli.walking import show_walk, walk_options


@click.command(
    "trace", epilog=examples("trace ./model.npz", "trace datum://5d0266a9", "trace digits#3 --at 40")
)
@walk_options
def command(name: str, project: str | None, depth: int | None, at: AsOf | None, direct: bool) -> None:
    """Show where NAME came from: a file on disk (it is hashed), a SHA-256, a run, or a reference.

    References are datum://SHA256 or an alias, dataset://NAME/VERSION and model://NAME/NUMBER.

    It is answered by the log itself when no service answers, and from an imported one.
    """
    show_walk(
        TraceRequest,
        lambda source, request: source.trace(request),
        trace_lines,
        name=name,
        project=project,
        depth=depth,
        at=at,
        direct=direct,
    )
