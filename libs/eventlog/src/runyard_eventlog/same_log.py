"""Notices that the log is not the one any more that this process has read: it was restored.

What a process remembers of the former log (folded states, positions of its followers) would contradict the
restored one, so it must end and start again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_core.errors import Corrupt
from runyard_eventlog import rows
from runyard_eventlog.port import LogHead

if TYPE_CHECKING:
    from runyard_eventlog.connections import Connection


class LogReplaced(Corrupt):
    """The log has lost events that this process has seen, or has another identity."""

    default_code = "LOG_REPLACED"


class SameLog:
    """What a process knows of its log. Looks once on each connection: no restore leaves one alive."""

    def __init__(self) -> None:
        self._log_id = ""
        self._seen = {Lane.LANE_DOMAIN: Position(0), Lane.LANE_TELEMETRY: Position(0)}
        self._server_pids: set[int] = set()

    def saw(self, lane: Lane.ValueType, position: Position) -> None:
        """Remember that the log had a position."""
        if position > self._seen[lane]:
            self._seen[lane] = position

    async def check(self, connection: Connection) -> None:
        """Look at the log's identity and heads, unless this was done on the connection.

        Raises:
            LogReplaced: it is not the log that was read before.
        """
        pid = connection.get_server_pid()
        if pid in self._server_pids:
            return
        # What others learn while the answer is on its way may be newer than the answer.
        known = self.known()
        (row,) = await connection.fetch(rows.HEAD)
        head = LogHead(row["log_id"], row["domain_position"], row["telemetry_position"])
        compare(known, head)
        self._log_id = head.log_id
        for lane in self._seen:
            self.saw(lane, head.of(lane))
        self._server_pids.add(pid)

    def known(self) -> LogHead | None:
        """What was seen so far; None before the first look."""
        domain, telemetry = self._seen.values()
        return LogHead(self._log_id, domain, telemetry) if self._log_id else None


def compare(known: LogHead | None, head: LogHead) -> None:
    """Compare what was known when a question was put with its answer.

    Raises:
        LogReplaced: it is not the log that was read before.
    """
    if known is None:
        return
    if head.log_id != known.log_id:
        raise LogReplaced(
            f"the log is {head.log_id}, this process has read {known.log_id}: it was restored, "
            "start the process again"
        )
    for lane in (Lane.LANE_DOMAIN, Lane.LANE_TELEMETRY):
        if head.of(lane) < known.of(lane):
            raise LogReplaced(
                f"lane {lane} of the log ends at position {head.of(lane)}, this process has seen "
                f"{known.of(lane)}: it was restored without a new identity, "
                "see docs/how-to/restore-the-log.md"
            )
