"""``history verify, proof, check-proof``: is the log still what was sealed, and is this event in it.

They never ask a service: whoever could change the log could change a service's answer too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf
from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode
from runyard_cli.history.moments import MOMENT
from runyard_cli.history.rebuilding import TARGET, Target, verify_projections
from runyard_cli.output import is_json, output_option, safe, say, say_json_object

if TYPE_CHECKING:
    from runyard_eventlog.proof import ProvenEvent
    from runyard_eventlog.verification import Report

PROOF_BYTES_MAX = 16 * 1024 * 1024
"""Largest proof that is looked at; one holds a single event."""

_LANES = {"domain": Lane.LANE_DOMAIN, "telemetry": Lane.LANE_TELEMETRY}

public_key_option = click.option(
    "--public-key",
    "key_files",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A trusted public key (PEM), best kept elsewhere; default: this yard's own.",
)
archive_option = click.option(
    "--archive",
    "archive_named",
    default="",
    metavar="FOLDER|URL",
    help="Where the segments are: a folder, or s3+https://KEY:SECRET@host:port/bucket/prefix.",
)
lane_option = click.option("--lane", type=click.Choice(sorted(_LANES)), help="Only this lane.")


def lanes_of(name: str | None) -> Sequence[Lane.ValueType]:
    """Give the lanes that ``--lane`` means; both without it."""
    return list(_LANES.values()) if name is None else [_LANES[name]]


@click.command(
    "verify",
    epilog=examples(
        "history verify --public-key segment.key.pub",
        "history verify --archive ./archive --archive-only --public-key segment.key.pub",
        "history verify --projections --read-model metrics/runs",
    ),
)
@click.option("--from", "begin", type=MOMENT, metavar="MOMENT", help="Only contents from here on.")
@click.option("--to", "end", type=MOMENT, metavar="MOMENT", help="Only contents up to here.")
@lane_option
@public_key_option
@archive_option
@click.option("--archive-only", is_flag=True, help="Without the database: signatures, chain and files alone.")
@click.option(
    "--processes",
    "process_count",
    type=click.IntRange(1, 64),
    default=min(4, os.cpu_count() or 1),
    metavar="N",
    help="How many compare; one a core by default, four at most.",
)
@click.option("--projections", is_flag=True, help="Instead: are the read models what the log says.")
@click.option(
    "--read-model",
    "targets",
    type=TARGET,
    multiple=True,
    metavar="SERVICE[/READ-MODEL]",
    help="With --projections: only this one.",
)
@output_option
def verify(
    begin: AsOf | None,
    end: AsOf | None,
    lane: str | None,
    key_files: tuple[Path, ...],
    archive_named: str,
    archive_only: bool,
    process_count: int,
    projections: bool,
    targets: tuple[Target, ...],
) -> None:
    """Recompute every sealed segment from database and archive; name what was changed, dropped or added.

    The chain of all segments is checked whatever --from and --to say. No service is asked, and none need be
    up. Exit code 1 when something is not as it was sealed.

    With --projections each service folds the log into scratch tables and compares them with its live ones,
    and rows that differ are named. Exit code 1 when there are any.
    """
    if projections or targets:
        verify_projections(targets)
        return
    from runyard_cli.history.sealed import answer

    lanes = lanes_of(lane)
    report = answer(_verify(begin, end, lanes, key_files, archive_named, archive_only, process_count))
    _say_report(report)
    if not report.is_sound:
        raise SystemExit(ExitCode.FAILED)


@click.command("proof", epilog=examples("history proof 01a204d9-e09a > proof.json"))
@click.argument("event_id", metavar="EVENT")
@archive_option
@output_option
def proof(event_id: str, archive_named: str) -> None:
    """Write the proof that EVENT is in the sealed log to standard output.

    EVENT is the id of an event, its first 8 digits or more, or its position.

    Who has the file and the public key can check it with `runyard history check-proof`, and needs no yard.
    The proof is JSON whatever --output says.
    """
    from runyard_cli.history.sealed import answer

    say(answer(_prove(event_id, archive_named)).decode().removesuffix("\n"))


@click.command("check-proof", epilog=examples("history check-proof proof.json --public-key segment.key.pub"))
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE")
@click.option(
    "--public-key",
    "key_file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The public key (PEM) of the yard, from where it can be trusted.",
)
@output_option
def check_proof(file: Path, key_file: Path) -> None:
    """Check the proof in FILE with the public key alone. Exit code 1 when it proves nothing."""
    from runyard_cli.history.sealed import answer

    _say_proven(answer(_check(file, key_file)))


async def _verify(
    begin: AsOf | None,
    end: AsOf | None,
    lanes: Sequence[Lane.ValueType],
    key_files: tuple[Path, ...],
    archive_named: str,
    archive_only: bool,
    process_count: int,
) -> Report:
    from runyard_cli.history.sealed import open_archive, open_rows, segments_between, trusted_keys
    from runyard_core.errors import Rejected
    from runyard_eventlog.verification import verify

    async with AsyncExitStack() as stack:
        archive = await stack.enter_async_context(open_archive(archive_named))
        rows = None if archive_only else await stack.enter_async_context(open_rows(archive))
        report = await verify(
            archive,
            trusted_keys(key_files),
            log=None if rows is None else rows.log,
            stored=None if rows is None else rows.stored,
            lanes=lanes,
            is_wanted=await segments_between(archive, rows, begin, end),
            process_count=process_count,
            database_url="" if rows is None else rows.database_url,
        )
    if report.is_sound and not report.event_count:
        raise Rejected(
            "nothing is sealed there yet: a segment is sealed when it is full, or some minutes old",
            code="NOTHING_SEALED",
        )
    return report


async def _prove(event_id: str, archive_named: str) -> bytes:
    from runyard_cli.history.sealed import open_archive, open_rows
    from runyard_core.errors import NotFound
    from runyard_eventlog.verification import prove_event
    from runyard_replay.reading.event_ids import PREFIX_DIGITS_MIN, find_event, is_position

    async with open_archive(archive_named) as archive, open_rows(archive) as rows:
        if is_position(event_id):
            try:
                event_id = (await find_event(rows.log, event_id)).envelope.event_id
            except NotFound:
                # So many digits may begin an id, too, of an event of the telemetry lane.
                if len(event_id) < PREFIX_DIGITS_MIN:
                    raise
        return await prove_event(archive, rows.stored, event_id)


async def _check(file: Path, key_file: Path) -> ProvenEvent:
    from runyard_core.errors import InvalidInput
    from runyard_eventlog.proof import check_proof
    from runyard_eventlog.signing import PublicKey

    with file.open("rb") as opened:
        content = opened.read(PROOF_BYTES_MAX + 1)
    if len(content) > PROOF_BYTES_MAX:
        raise InvalidInput(f"{file} is too large for a proof", code="BAD_PROOF")
    return check_proof(content, PublicKey.load(key_file))


def _say_report(report: Report) -> None:
    if not is_json():
        for line in report.lines():
            say(safe(line))
        return
    from runyard_eventlog.verification import NOT_PROVEN

    say_json_object(
        {
            "sound": report.is_sound,
            "event_count": report.event_count,
            "seconds": round(report.seconds, 3),
            "findings": [asdict(finding) for finding in report.findings],
            "lanes": [asdict(lane) for lane in report.lanes],
            "not_proven": NOT_PROVEN,
        }
    )


def _say_proven(proven: ProvenEvent) -> None:
    event, manifest = proven.event, proven.manifest
    facts = {
        "event_id": str(event.event_id),
        "type": event.type,
        "stream": event.stream,
        "version": event.version,
        "lane": manifest.lane,
        "position": event.position,
        "recorded_at": event.recorded_at.isoformat(),
        "actor": event.actor,
        "correlation_id": event.correlation_id,
        "segment": str(manifest.name),
        "segment_root": manifest.segment_root,
        "key_id": proven.key_id,
    }
    if is_json():
        say_json_object({"proven": facts})
        return
    say(f"PROVEN: key {proven.key_id} signed a segment that holds this event")
    for name, value in facts.items():
        say(safe(f"  {name.replace('_', ' '):<15} {value}"))
