"""``runyard impact``: what a file, run or code tree touched."""

from __future__ import annotations

import click

from runyard.event.v1.read_pb2 import AsOf
from runyard.lineage.v1.lineage_service_pb2 import ImpactRequest
from runyard_cli.examples import examples
from runyard_cli.graph import impact_lines
from runyard_cli.walking import show_walk, walk_options


@click.command(
    "impact",
    epilog=examples(
        "impact ./train.npz", "impact digits#1", "impact dataset://images/v3 --project digits --at 40"
    ),
)
@walk_options
def command(name: str, project: str | None, depth: int | None, at: AsOf | None, direct: bool) -> None:
    """Show what NAME went into: a file on disk (it is hashed), a SHA-256, a run, or a reference.

    References are datum://SHA256 or an alias, dataset://NAME/VERSION and model://NAME/NUMBER.

    It is answered by the log itself when no service answers, and from an imported one.
    """
    show_walk(
        ImpactRequest,
        lambda source, request: source.impact(request),
        impact_lines,
        name=name,
        project=project,
        depth=depth,
        at=at,
        direct=direct,
    )
