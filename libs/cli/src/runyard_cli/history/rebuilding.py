"""``history projections, rebuild``, and ``verify --projections``: read models against the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import click

from runyard.projection.v1 import projection_service_pb2 as pb
from runyard.projection.v1 import types_pb2
from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode, fail
from runyard_cli.history.rebuild_words import ProgressLine, outcome_lines, target_name
from runyard_cli.output import Style, is_json, output_option, safe, say, say_json, say_json_line
from runyard_cli.session import converse
from runyard_cli.table import Cell, say_table
from runyard_cli.words import duration_words, size_words
from runyard_client import Client
from runyard_client.context import SERVICES
from runyard_client.errors import Unreachable
from runyard_contracts.ids import uuid7
from runyard_core.retry import Backoff, Retries, Telling

BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0, tries_max=60)
"""For a service that went away in the middle of a rebuild."""

Follow = Callable[[], AsyncIterator[types_pb2.RebuildProgress]]


class Target(NamedTuple):
    """A read model: its service, and its name; without a name all of the service's."""

    service: str
    projection: str

    def __str__(self) -> str:
        return f"{self.service}/{self.projection}" if self.projection else self.service


class TargetType(click.ParamType[Target]):
    """A service, "cost", or one of its read models, "metrics/runs"."""

    name = "read model"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        """Split it."""
        service, _, projection = str(value).partition("/")
        if service not in SERVICES:
            self.fail(f"{service!r} is not a service; they are {', '.join(SERVICES)}", param, ctx)
        return Target(service, projection)


TARGET = TargetType()


@click.command(
    "projections",
    epilog=examples(
        "history projections --output json",
    ),
)
@output_option
def projections() -> None:
    """List every read model: how far it is, what is parked, and which tables are kept."""

    async def ask(client: Client) -> list[types_pb2.Projection]:
        return [
            each
            for service in SERVICES
            for each in (
                await client.projections(service).ListProjections(pb.ListProjectionsRequest())
            ).projections
        ]

    found = converse(ask)
    if is_json():
        say_json(pb.ListProjectionsResponse(projections=found))
        return
    headings = ("READ MODEL", "VERSION", "POSITION", "LAG", "PARKED", "SIZE", "STATE")
    say_table(headings, [_row(each) for each in found], right=(1, 2, 3, 4, 5))


@click.command(
    "rebuild",
    epilog=examples(
        "history rebuild cost",
        "history rebuild metrics/runs --accept-differences",
        "history rebuild cost --back",
        "history rebuild cost --drop-old",
    ),
)
@click.argument("targets", type=TARGET, nargs=-1, required=True, metavar="SERVICE[/READ-MODEL]...")
@click.option(
    "--accept-differences",
    is_flag=True,
    help="Take the live tables' place also when the rebuilt ones differ.",
)
@click.option(
    "--back",
    is_flag=True,
    help="Go back to the tables that the last rebuild replaced, brought up to now.",
)
@click.option("--drop-old", is_flag=True, help="Drop what a rebuild replaced and was kept; build nothing.")
@click.option("--abandon", is_flag=True, help="Drop a rebuild that differs or failed; build nothing.")
@output_option
def rebuild(
    targets: Sequence[Target], accept_differences: bool, back: bool, drop_old: bool, abandon: bool
) -> None:
    """Build read models anew from the log, beside the live ones, and swap them when they are the same.

    The services go on serving. What is killed goes on where it was; asked again, it is joined. The replaced
    tables are kept until --drop-old, and --back puts them into place again. Disputed events are left out.
    Exit code 1 when the rebuilt tables differ: look at the rows named, then ask again with
    --accept-differences, or --abandon.
    """
    if drop_old or abandon:
        kind = types_pb2.BUILD_KIND_OLD if drop_old else types_pb2.BUILD_KIND_NEW
        converse(lambda client: _drop(client, targets, kind))
        return

    async def work(client: Client) -> list[types_pb2.RebuildProgress]:
        return [
            await _followed(_rebuilding(client, target, accept_differences, back))
            for target in await _named(client, targets)
        ]

    _conclude(converse(work), _said_of_rebuild)


def verify_projections(targets: Sequence[Target]) -> None:
    """Prove that read models are what the log says; exit code 1 when one is not."""

    async def work(client: Client) -> list[types_pb2.RebuildProgress]:
        wanted = targets or [Target(service, "") for service in SERVICES]
        return [await _followed(_verifying(client, target)) for target in await _named(client, wanted)]

    _conclude(converse(work), _said_of_verification)


async def _named(client: Client, targets: Sequence[Target]) -> list[Target]:
    """Replace a service by each of its read models."""
    named: list[Target] = []
    for target in targets:
        if target.projection:
            named.append(target)
            continue
        listed = await client.projections(target.service).ListProjections(pb.ListProjectionsRequest())
        named += [Target(target.service, each.name) for each in listed.projections]
    return named


def _rebuilding(client: Client, target: Target, accept_differences: bool, back: bool) -> Follow:
    request = pb.RebuildProjectionRequest(
        projection=target.projection,
        request_id=uuid7(),
        accept_differences=accept_differences,
        from_replaced=back,
    )

    async def follow() -> AsyncIterator[types_pb2.RebuildProgress]:
        async for answer in client.projections(target.service).RebuildProjection(request):
            yield answer.progress

    return follow


def _verifying(client: Client, target: Target) -> Follow:
    async def follow() -> AsyncIterator[types_pb2.RebuildProgress]:
        request = pb.VerifyProjectionRequest(projection=target.projection)
        async for answer in client.projections(target.service).VerifyProjection(request):
            yield answer.progress

    return follow


async def _followed(follow: Follow) -> types_pb2.RebuildProgress:
    """Show progress until the end; a service that comes back is asked again, which joins what goes on."""
    line = ProgressLine()
    last = types_pb2.RebuildProgress()
    retries = Retries("following a rebuild", BACKOFF, Telling(line.note))
    while True:
        try:
            async for last in follow():
                retries.succeeded()
                line.show(last)
        except Unreachable as error:
            if not last.service:
                raise
            await retries.pause(error)
        else:
            return last


async def _drop(client: Client, targets: Sequence[Target], kind: types_pb2.BuildKind.ValueType) -> None:
    for target in await _named(client, targets):
        request = pb.DropBuildsRequest(projection=target.projection, kind=kind, request_id=uuid7())
        answer = await client.projections(target.service).DropBuilds(request)
        if is_json():
            say_json_line(answer)
        else:
            say(
                safe(
                    f"{target}: dropped {', '.join(answer.tables)}"
                    if answer.tables
                    else f"{target}: nothing is kept"
                )
            )


def _conclude(
    ended: Sequence[types_pb2.RebuildProgress], said: Callable[[types_pb2.RebuildProgress], str]
) -> None:
    for progress in ended:
        if is_json():
            say_json_line(progress)
        else:
            say(safe(said(progress)))
            for text in outcome_lines(progress):
                say(safe(text))
    failed = [progress for progress in ended if progress.phase == types_pb2.REBUILD_PHASE_FAILED]
    if failed:
        fail(
            ExitCode.REFUSED,
            failed[0].reason,
            f"{target_name(failed[0])}: {failed[0].message}",
            "`runyard history projections` and `runyard history dead-letters list` show what is there.",
        )
    if any(progress.phase == types_pb2.REBUILD_PHASE_DIFFERS for progress in ended):
        raise SystemExit(ExitCode.FAILED)


def _said_of_rebuild(progress: types_pb2.RebuildProgress) -> str:
    name = target_name(progress)
    match progress.phase:
        case types_pb2.REBUILD_PHASE_DONE:
            shown = f"rebuilt to position {progress.position} and shown (event {progress.event_position})"
            return f"{name}: {shown}; the replaced tables are kept until --drop-old"
        case types_pb2.REBUILD_PHASE_DIFFERS:
            return (
                f"{name}: differs from the live tables up to position {progress.compared_position}; "
                "ask again with --accept-differences, or --abandon"
            )
        case _:
            return f"{name}: failed"


def _said_of_verification(progress: types_pb2.RebuildProgress) -> str:
    name = target_name(progress)
    match progress.phase:
        case types_pb2.REBUILD_PHASE_DONE:
            return f"{name}: the same as the log says, up to position {progress.compared_position}"
        case types_pb2.REBUILD_PHASE_DIFFERS:
            return f"{name}: NOT what the log says, up to position {progress.compared_position}"
        case _:
            return f"{name}: could not be verified"


def _row(each: types_pb2.Projection) -> Sequence[str | Cell]:
    size = sum(build.size_bytes for build in each.builds)
    return (
        f"{each.service}/{each.name}",
        str(each.version),
        f"{each.position:,}",
        f"{each.position_lag:,}",
        Cell(f"{each.parked_count:,}", Style.BAD if each.parked_count else Style.PLAIN),
        size_words(size),
        _state(each),
    )


def _state(each: types_pb2.Projection) -> Cell:
    kept = sum(build.kind == types_pb2.BUILD_KIND_OLD for build in each.builds)
    if each.stopped:
        return Cell(f"stopped: {each.stopped}", Style.BAD)
    if each.HasField("rebuild") and each.rebuild.phase == types_pb2.REBUILD_PHASE_DIFFERS:
        return Cell("a rebuild differs", Style.BAD)
    if each.HasField("rebuild"):
        return Cell("being rebuilt", Style.BUSY)
    if each.parked_count:
        return Cell(f"oldest parked {duration_words(each.oldest_parked_seconds)} ago", Style.BAD)
    return Cell("former tables kept" if kept else "", Style.FAINT)
