"""``history detach``: take old partitions, sealed and verified, out of the log's database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf
from runyard_cli.examples import examples
from runyard_cli.history.moments import MOMENT
from runyard_cli.history.verifying import archive_option, lane_option, lanes_of, public_key_option
from runyard_cli.output import is_json, output_option, say, say_json_object
from runyard_core.counted import count_words

if TYPE_CHECKING:
    from runyard_eventlog.detaching import Partition


@click.command(
    "detach",
    epilog=examples(
        "history detach --before 2026-06-01",
        "history detach --before 2026-06-01 --yes",
    ),
)
@click.option("--before", type=MOMENT, required=True, metavar="MOMENT", help="Only what is wholly before it.")
@lane_option
@click.option("--yes", is_flag=True, help="Do it; without it, only say what would be detached.")
@public_key_option
@archive_option
@output_option
def detach(
    before: AsOf, lane: str | None, yes: bool, key_files: tuple[Path, ...], archive_named: str
) -> None:
    """Detach the partitions of the log that end before a moment, once all of them is sealed and verified.

    Readers go on as before: what they ask for is read from the archive. The tables stay in the schema `log`
    until an administrator drops them. Needs the database's administrator, as only this machine or
    RUNYARD_ADMIN_DATABASE_URL knows it.
    """
    from runyard_cli.history.sealed import answer

    found = answer(_detach(before, lanes_of(lane), key_files, archive_named, is_meant=yes))
    if is_json():
        tables = [
            {"table": f"log.{one.name}", "first": one.first_position, "last": one.last_position}
            for one in found
        ]
        say_json_object({"detached": yes, "partitions": tables})
        return
    for one in found:
        what = "detached" if yes else "would detach"
        say(f"{what} log.{one.name}: positions {one.first_position} to {one.last_position}")
    if yes:
        say("their events are read from the archive now; `drop table` frees the space, when you are sure")
    else:
        say(f"nothing done: --yes verifies and detaches {count_words(len(found), 'partition')}")


async def _detach(
    before: AsOf,
    lanes: Sequence[Lane.ValueType],
    key_files: tuple[Path, ...],
    archive_named: str,
    *,
    is_meant: bool,
) -> list[Partition]:
    from runyard_cli.history.sealed import open_archive, open_rows, trusted_keys
    from runyard_core.clock import SystemClock
    from runyard_core.errors import Rejected
    from runyard_eventlog.detaching import attached_before, detach_before
    from runyard_replay.reading.moments import moment_of

    async with open_archive(archive_named) as archive, open_rows(archive, as_administrator=True) as rows:
        position = (await moment_of(rows.log, before, SystemClock())).position
        if before.WhichOneof("at") != "position":
            # The position of a time is the last one at or before it.
            position += 1
        found = [one for lane in lanes for one in await attached_before(rows.pool, lane, position)]
        if not found:
            raise Rejected(f"no partition ends before position {position}", code="NOTHING_TO_DETACH")
        if is_meant:
            keys = trusted_keys(key_files)
            for lane in lanes:
                await detach_before(rows.pool, archive, keys, lane, position)
    return found
