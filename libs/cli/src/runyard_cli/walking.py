"""What ``runyard trace`` and ``runyard impact`` share: a walk through the provenance graph, up or down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.lineage.v1.lineage_service_pb2 import (
    Edge,
    ImpactRequest,
    ImpactResponse,
    TraceRequest,
    TraceResponse,
    Vertex,
)
from runyard_cli.graph import asked_about, without_alias
from runyard_cli.history.moments import MOMENT
from runyard_cli.history.source import Source, ask, direct_option
from runyard_cli.names import project_option
from runyard_cli.output import is_json, note, output_option, say, say_json

Request = TypeVar("Request", TraceRequest, ImpactRequest)
Answer = TypeVar("Answer", TraceResponse, ImpactResponse)
Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.argument("name"),
    project_option,
    click.option("--depth", type=click.IntRange(1, 100), default=None, help="Steps to walk; 32 by default."),
    click.option("--at", type=MOMENT, metavar="MOMENT", help="As of this position or time."),
    direct_option,
    output_option,
)


def walk_options(command: Command) -> Command:
    """Add what can be said of a walk: NAME, ``--project``, ``--depth``, ``--at``, ``--direct``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def show_walk(
    kind: type[Request],
    walk: Callable[[Source, Request], Awaitable[Answer]],
    lines: Callable[[Vertex, Sequence[Edge]], Iterable[str]],
    *,
    name: str,
    project: str | None,
    depth: int | None,
    at: AsOf | None,
    direct: bool,
) -> None:
    """Walk from what NAME means, and show what was found."""
    wanted = asked_about(name, project)
    request = kind(depth_max=depth or 0, read=ReadOptions(as_of=at))

    async def walked(source: Source) -> Answer:
        request.name = await without_alias(source, wanted, project, at)
        return await walk(source, request)

    answer = ask(walked, direct=direct)
    if is_json():
        say_json(answer)
        return
    for line in lines(answer.root, answer.edges):
        say(line)
    if answer.truncated:
        note("the walk was cut: --depth goes deeper, and a walk from a thing farther on shows more")
