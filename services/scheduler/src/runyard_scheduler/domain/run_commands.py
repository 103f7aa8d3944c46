"""The commands of a run: what may be asked of it. ``domain/run.py`` decides on them."""

from __future__ import annotations

from dataclasses import dataclass

from runyard.agent.v1.agent_service_pb2 import AttemptReport
from runyard.run.v1.hands_on_pb2 import ExitStatus, HandsOnEndReason
from runyard.run.v1.types_pb2 import CauseCode, RunSpec
from runyard_contracts.ids import LeaseId, NodeId, RunId


@dataclass(frozen=True, slots=True)
class Queue:
    """Queue a new run."""

    run_id: RunId
    project: str
    number: int
    spec: RunSpec
    title: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """Give the queued run a lease on a node."""

    lease_id: LeaseId
    node_id: NodeId
    gpu_uuids: tuple[str, ...]
    lease_milliseconds: int


@dataclass(frozen=True, slots=True)
class RequestStop:
    """Ask for the run to end."""

    cause_code: CauseCode.ValueType
    reason: str


@dataclass(frozen=True, slots=True)
class MarkUnreachable:
    """The node of the leased attempt is not heard from."""

    epoch: int
    silent_milliseconds: int


@dataclass(frozen=True, slots=True)
class MarkReachable:
    """The node reported the attempt again."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ExpireLease:
    """The lease ran out without a renewal."""

    epoch: int
    silent_milliseconds: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The attempt has surely ended without a report of its own: fail it, and follow ``on_lost``."""

    epoch: int
    detail: str


@dataclass(frozen=True, slots=True)
class Withhold:
    """The lease cannot be handed to its node, now or later: the attempt never begins, nor would another."""

    epoch: int
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """A node reports a fact about an attempt."""

    node_id: NodeId
    report: AttemptReport


@dataclass(frozen=True, slots=True)
class OpenHandsOn:
    """Somebody gets a shell beside the attempt, or one of its ports."""

    session_id: str
    epoch: int
    command: tuple[str, ...] = ()
    """As it may be recorded; empty for a shell."""
    terminal: bool = False
    port: int = 0
    """0 for a shell or command."""


@dataclass(frozen=True, slots=True)
class CloseHandsOn:
    """A session is over."""

    session_id: str
    attempt: int
    epoch: int
    end_reason: HandsOnEndReason.ValueType
    detail: str = ""
    exit_status: ExitStatus | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    connection_count: int = 0


RunCommand = (
    Queue
    | Grant
    | RequestStop
    | MarkUnreachable
    | MarkReachable
    | ExpireLease
    | GiveUp
    | Withhold
    | Report
    | OpenHandsOn
    | CloseHandsOn
)
