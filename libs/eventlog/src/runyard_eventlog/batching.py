"""Chooses which waiting commands may share one call of the log's append function. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from runyard_eventlog.admission import AdmittedCommand

COMMANDS_MAX = 500
"""Most commands of a batch."""
EVENTS_MAX = 4_000
"""Most events of a batch, unless its first command alone has more."""
BYTES_MAX = 8 * 1024 * 1024
"""Most payload bytes of a batch, unless its first command alone has more."""


def next_batch(waiting: Sequence[AdmittedCommand]) -> list[int]:
    """Give the indexes of the commands to send now, at least one when any waits.

    No two of them name the same stream, command id or event id, and a command never overtakes an earlier
    one that it shares any of these with.
    """
    taken: set[str] = set()
    batch: list[int] = []
    event_count = size_bytes = 0
    for index, command in enumerate(waiting):
        if len(batch) >= COMMANDS_MAX:
            break
        if taken.isdisjoint(command.names) and (
            not batch
            or (
                command.lane == waiting[batch[0]].lane
                and event_count + len(command.events) <= EVENTS_MAX
                and size_bytes + command.size_bytes <= BYTES_MAX
            )
        ):
            batch.append(index)
            event_count += len(command.events)
            size_bytes += command.size_bytes
        taken |= command.names
    return batch
