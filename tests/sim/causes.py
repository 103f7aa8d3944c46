"""Every event follows from an earlier one that can bring it about, or from a command alone."""

from __future__ import annotations

from collections.abc import Mapping

from runyard.event.v1.envelope_pb2 import Envelope
from tests.sim.universe import Universe

_AN_ATTEMPT = frozenset({"run.lease_granted", "run.started"})
_A_STOP = frozenset({"run.stop_requested"})
_A_COMMAND = frozenset({""})

FOLLOWS_FROM: Mapping[str, frozenset[str]] = {
    "run.queued": _A_COMMAND,
    "run.lease_granted": frozenset({"run.queued", "run.requeued"}),
    "run.started": frozenset({"run.lease_granted"}),
    "environment.captured": frozenset({"run.lease_granted"}),
    "run.status_detail_set": _AN_ATTEMPT,
    "run.input_fetched": _AN_ATTEMPT,
    "run.stop_requested": _A_COMMAND,
    "run.unreachable": frozenset({"node.detached", "run.lease_granted"}),
    "run.lease_expired": frozenset({"run.unreachable"}),
    "run.reachable_again": frozenset({"node.attached", "run.unreachable", "run.lease_expired"}),
    "run.attempt_exited": _AN_ATTEMPT | _A_STOP,
    "run.attempt_failed": _AN_ATTEMPT | _A_STOP | {"run.unreachable", "run.lease_expired", "node.attached"},
    "run.requeued": frozenset({"run.attempt_failed"}),
    "run.finished": frozenset({"run.attempt_exited", "run.attempt_failed"}) | _A_COMMAND,
    "run.stale_report_received": frozenset({"run.lease_granted"}),
    "node.enrolled": _A_COMMAND,
    "node.attached": _A_COMMAND,
    "node.detached": _A_COMMAND,
    "node.gpus_reserved": frozenset({"run.lease_granted"}),
    "node.gpus_released": frozenset({"run.attempt_exited", "run.attempt_failed"}),
}
"""Type -> the types that it may follow from; "" for a command alone."""


class CauseWatch:
    """Looks at each event as it is appended."""

    def __init__(self, universe: Universe) -> None:
        """Tell this universe what is wrong."""
        self._universe = universe
        self._types: dict[str, str] = {}

    def look(self, envelope: Envelope) -> None:
        """Hold an event to what it can follow from."""
        name = envelope.type.removeprefix("runyard.")
        cause = envelope.causation_id
        self._universe.always(
            not cause or cause in self._types, f"{name} follows from {cause}, which is not in the log"
        )
        of = self._types.get(cause, "")
        self._universe.always(of in FOLLOWS_FROM.get(name, {of}), f"{name} follows from {of or 'nothing'}")
        self._types[envelope.event_id] = name
