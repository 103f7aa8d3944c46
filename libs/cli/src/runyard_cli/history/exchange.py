"""``history export`` and ``history import``: a log as files, and files as a log to look into."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1 import history_service_pb2 as pb
from runyard_cli.examples import examples
from runyard_cli.history.moments import MOMENT
from runyard_cli.history.source import Source, ask, direct_option
from runyard_cli.output import is_json, output_option, say, say_json_object
from runyard_client import runyard_home
from runyard_client.errors import ClientError
from runyard_core.counted import count_words

if TYPE_CHECKING:
    from runyard_replay.exports import Manifest

# Telemetry batches are tens of kilobytes; a page must fit a gRPC message.
_PAGE_SIZES = {Lane.LANE_DOMAIN: 500, Lane.LANE_TELEMETRY: 100}


@click.command(
    "export",
    epilog=examples(
        "history export ./log-of-november",
        "history export ./before --to '2026-11-02 14:00' --names",
        "history export ./events --cloudevents",
    ),
)
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "--to", "end", type=MOMENT, default="now", metavar="MOMENT", help="Up to this position or time."
)
@click.option(
    "--names", is_flag=True, help="Names of persons as people read them; the export then holds them."
)
@click.option("--cloudevents", is_flag=True, help="CloudEvents 1.0 JSON; cannot be imported again.")
@direct_option
@output_option
def export(folder: Path, end: AsOf, names: bool, cloudevents: bool, direct: bool) -> None:
    """Write the log, from its first event on, into the new FOLDER: JSON lines and a manifest of hashes.

    Persons read [sealed] in it where they are imported, unless --names writes them open.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise click.UsageError(f"{folder} must be a new folder: {error.strerror}") from None

    async def write(source: Source) -> Manifest:
        return await _write(source, folder, end, names=names, cloudevents=cloudevents)

    try:
        manifest = ask(write, direct=direct)
    except BaseException:
        # A part of an export must not look like one.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _say_done(f"exported to {folder}", sum(entry.event_count for entry in manifest.files), manifest.log_id)


@click.command(
    "import",
    epilog=examples(
        "RUNYARD_HOME=./post-mortem runyard history import ./log-of-november",
    ),
)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="FOLDER")
@output_option
def import_(folder: Path) -> None:
    """Read an export in FOLDER into this empty RUNYARD_HOME, to look into it with `runyard history`.

    No engine and no service is needed for it, and nothing can be added to it.
    """
    from runyard_core.errors import Corrupt, Rejected
    from runyard_replay.exports import read_manifest
    from runyard_replay.imported import import_log

    home = runyard_home()
    try:
        manifest = read_manifest(folder)
        event_count = import_log(folder, manifest, home)
    except (Corrupt, Rejected) as error:
        raise ClientError("REFUSED", error.code, error.message, metadata=error.metadata) from None
    _say_done(f"imported into {home}", event_count, manifest.log_id)


async def _write(source: Source, folder: Path, end: AsOf, *, names: bool, cloudevents: bool) -> Manifest:
    from runyard_contracts.recorded import RecordedEvent
    from runyard_replay.exports import CLOUDEVENTS, FORMAT, LaneWriter, Manifest, write_manifest

    head = await source.head()
    shown = await source.state(
        pb.GetStateAsOfRequest(as_of=end, subject=pb.Subject(kind=pb.SubjectKind.SUBJECT_KIND_PRICES))
    )
    ends = {Lane.LANE_DOMAIN: shown.position, Lane.LANE_TELEMETRY: head.telemetry_position}
    entries = []
    for lane, last in ends.items():
        with LaneWriter(folder, lane, cloudevents=cloudevents) as writer:
            while writer.event_count < last:
                request = pb.ListEventsRequest(
                    lane=lane,
                    after_position=writer.event_count,
                    to_position=last,
                    page_size=_PAGE_SIZES[lane],
                    as_stored=not names,
                )
                page = await source.list_events(request)
                found = [view.envelope for view in page.events]
                wanted = [each for each in found if each.after_position <= shown.position]
                for envelope in wanted:
                    writer.write(RecordedEvent(envelope))
                if len(wanted) < len(found) or not found:
                    break
            entries.append(writer.entry())
    manifest = Manifest(CLOUDEVENTS if cloudevents else FORMAT, head.log_id, tuple(entries))
    write_manifest(folder, manifest)
    return manifest


def _say_done(what: str, event_count: int, log_id: str) -> None:
    if is_json():
        say_json_object({"done": what, "event_count": event_count, "log_id": log_id})
    else:
        say(f"{count_words(event_count, 'event')} {what}")
