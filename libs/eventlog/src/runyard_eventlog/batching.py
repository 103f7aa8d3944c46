"""Chooses which waiting commands may share one call of the log's append function. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runyard.event.v1.envelope_pb2 import Lane
from runyard_eventlog.admission import AdmittedCommand

COMMANDS_MAX = 500
"""Most commands of a batch."""
EVENTS_MAX = 4_000
"""Most events of a batch, unless its first command alone has more."""
BYTES_MAX = 8 * 1024 * 1024
"""Most payload bytes of a batch, unless its first command alone has more."""


@dataclass(slots=True)
class _Batch:
    lane: Lane.ValueType | None = None
    indexes: list[int] = field(default_factory=list)
    event_count: int = 0
    size_bytes: int = 0
    streams: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)

    def fits(self, command: AdmittedCommand) -> bool:
        return not self.indexes or (
            command.lane == self.lane
            and self.event_count + len(command.events) <= EVENTS_MAX
            and self.size_bytes + command.size_bytes <= BYTES_MAX
        )

    def touches(self, command: AdmittedCommand) -> bool:
        return (
            command.command_id in self.ids
            or any(stream in self.streams for stream, _ in command.streams)
            or any(event.event_id in self.ids for event in command.events)
        )

    def reserve(self, command: AdmittedCommand) -> None:
        self.ids.add(command.command_id)
        self.streams.update(stream for stream, _ in command.streams)
        self.ids.update(event.event_id for event in command.events)

    def take(self, index: int, command: AdmittedCommand) -> None:
        self.lane = command.lane
        self.indexes.append(index)
        self.event_count += len(command.events)
        self.size_bytes += command.size_bytes


def next_batch(
    waiting: Sequence[AdmittedCommand],
    under_way: Sequence[AdmittedCommand] = (),
    commands_max: int = COMMANDS_MAX,
) -> list[int]:
    """Give the indexes of the commands to send now.

    No two of them, and none of them and one under way, name the same stream, command id or event id; and
    a command never overtakes an earlier one that it shares any of these with.
    """
    batch = _Batch()
    for command in under_way:
        batch.reserve(command)
    for index, command in enumerate(waiting):
        if len(batch.indexes) >= commands_max:
            break
        if batch.fits(command) and not batch.touches(command):
            batch.take(index, command)
        batch.reserve(command)
    return batch.indexes
