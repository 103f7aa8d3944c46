"""The state of one run, folded from the events of stream ``run-<id>``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from google.protobuf.message import Message

from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Cause, CauseCode, Environment, Input, OnLost, RunSpec, RunState
from runyard_contracts.ids import LeaseId, NodeId, RunId
from runyard_contracts.images import pin_of
from runyard_replay.folding.runs import state_after

ATTEMPTS_DEFAULT = 10
"""Attempts at most of a run that names no bound: that many lost machines may well be its own doing."""
_NO_RUN = RunId("")


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a run's latest attempt, and what is known of that attempt."""

    lease_id: LeaseId
    node_id: NodeId
    attempt: int
    epoch: int
    gpu_uuids: tuple[str, ...]
    milliseconds: int
    holds_gpus: bool = True
    """Until the user's code has ended, or could not be started."""
    started: bool = False
    failed: bool = False
    """The user's code could not be started; only the last report is still to come."""
    reachable: bool = True
    expired: bool = False
    """The lease ran out, and the node has not come back since."""
    cause: Cause | None = None
    """Why the user's code ended, or could not be started."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop that was asked for."""

    cause_code: CauseCode.ValueType
    reason: str


@dataclass(frozen=True, slots=True)
class Run:
    """What decisions need to know of one run."""

    run_id: RunId = _NO_RUN
    project: str = ""
    number: int = 0
    spec: RunSpec | None = None
    """What was asked for, but for the files of its inputs: ``whole_spec`` has those, too."""
    input_files: bytes = b""
    """A serialised RunSpec of inputs with nothing but their files; empty when none has any."""
    title: str = ""
    tags: tuple[str, ...] = ()
    phase: RunState.ValueType = RunState.RUN_STATE_UNSPECIFIED
    attempt: int = 0
    """Number of the latest attempt; 0 before the first."""
    epoch: int = 0
    """Fencing epoch of the latest lease; 0 before the first."""
    lease: Lease | None = None
    """The latest lease; None before the first, and after its attempt was given up."""
    stop: Stop | None = None
    status_detail: str = ""
    open_session_ids: frozenset[str] = frozenset()
    """Hands-on sessions that are not known to have ended."""
    image_pin: str = ""
    """What the first attempt in a container found the image to be; every later one gets the same."""
    input_pins: tuple[Input, ...] = ()
    """Files from outside the yard as the first attempt found them; every later one gets the same bytes."""

    @property
    def live_lease(self) -> Lease | None:
        """The lease, while the run is not finished."""
        return None if self.phase == RunState.RUN_STATE_FINISHED else self.lease

    @property
    def requeues_when_lost(self) -> bool:
        """Whether the run asks to be queued again when its machine is lost; attempts end with their lease."""
        return self.spec is not None and self.spec.on_lost == OnLost.ON_LOST_REQUEUE

    @property
    def attempts_max(self) -> int:
        """Attempts at most."""
        return ATTEMPTS_DEFAULT if self.spec is None else self.spec.attempts_max or ATTEMPTS_DEFAULT

    @property
    def has_attempts_left(self) -> bool:
        """Whether there may be another attempt after the latest."""
        return self.attempt < self.attempts_max


def evolve(run: Run, event: Message) -> Run:
    """Give the state after an event; one that this code does not know leaves it as it is."""
    run = replace(run, phase=state_after(run.phase, event))
    match event:
        case ev.RunQueued():
            spec, input_files = parted(event.spec)
            return replace(
                run,
                run_id=RunId(event.run_id),
                project=event.project,
                number=event.number,
                spec=spec,
                input_files=input_files,
                title=event.title,
                tags=tuple(event.tags),
            )
        case ev.RunLeaseGranted():
            lease = Lease(
                lease_id=LeaseId(event.lease_id),
                node_id=NodeId(event.node_id),
                attempt=event.attempt,
                epoch=event.epoch,
                gpu_uuids=tuple(event.gpu_uuids),
                milliseconds=event.lease_milliseconds,
            )
            return replace(run, attempt=event.attempt, epoch=event.epoch, lease=lease)
        case ev.RunStopRequested():
            return replace(run, stop=Stop(event.cause_code, event.reason))
        case ev.RunStatusDetailSet():
            return replace(run, status_detail=event.status_detail)
        case ev.EnvironmentCaptured():
            return replace(run, image_pin=run.image_pin or image_pin_of(event.environment))
        case ev.RunStarted():
            pins = run.input_pins or input_pins_of(whole_spec(run), event.inputs)
            lease_after = None if run.lease is None else _lease_after(run.lease, event)
            return replace(run, input_pins=pins, lease=lease_after)
        case ev.RunRequeued():
            return replace(run, lease=None)
        case ev.RunHandsOnOpened():
            return replace(run, open_session_ids=run.open_session_ids | {event.session_id})
        case ev.RunHandsOnClosed():
            return replace(run, open_session_ids=run.open_session_ids - {event.session_id})
        case _:
            return run if run.lease is None else replace(run, lease=_lease_after(run.lease, event))


def parted(spec: RunSpec) -> tuple[RunSpec, bytes]:
    """Give a copy of a spec without the files of its inputs, and those files, as ``Run`` keeps them.

    Files may take a megabyte, and twice that as messages; the runs of a sweep have the same ones, once.
    """
    bare = RunSpec()
    bare.CopyFrom(spec)
    if not any(each.files for each in spec.inputs):
        return bare, b""
    files = RunSpec(inputs=[Input(files=each.files) for each in spec.inputs])
    for each in bare.inputs:
        del each.files[:]
    # A message keeps the memory of all that it ever held.
    return RunSpec.FromString(bare.SerializeToString()), _shared(files.SerializeToString(deterministic=True))


def whole_spec(run: Run) -> RunSpec | None:
    """Give what was asked for, with the files of its inputs. Not to be changed."""
    if run.spec is None or not run.input_files:
        return run.spec
    spec = RunSpec()
    spec.CopyFrom(run.spec)
    for each, kept in zip(spec.inputs, RunSpec.FromString(run.input_files).inputs, strict=True):
        each.files.extend(kept.files)
    return spec


@lru_cache(maxsize=16)
def _shared(serialised: bytes) -> bytes:
    """Give the bytes that were given for equal ones not long ago."""
    return serialised


def image_pin_of(environment: Environment) -> str:
    """Give the pin of an environment's image; empty for a process."""
    return pin_of(environment.image, environment.image_id, environment.image_repo_digests)


def input_pins_of(spec: RunSpec | None, found: Iterable[Input]) -> tuple[Input, ...]:
    """Give the files that an attempt found at addresses outside the yard, by input.

    What such an address stands for may change at any time; of the yard's own files the spec has the hashes.
    """
    asked = {} if spec is None else {each.name: each for each in spec.inputs if not each.on_demand}
    pins = []
    for each in found:
        if each.name not in asked:
            continue
        known = {file.uri for file in asked[each.name].files}
        pin = Input(name=each.name, files=[file for file in each.files if file.uri not in known])
        for file in pin.files:
            file.ClearField("moved_bytes")
        if pin.files:
            pins.append(pin)
    return tuple(pins)


def _lease_after(lease: Lease, event: Message) -> Lease | None:
    match event:
        case ev.RunStarted():
            return replace(lease, started=True)
        case ev.RunUnreachable():
            return replace(lease, reachable=False)
        case ev.RunReachableAgain():
            return replace(lease, reachable=True, expired=False)
        case ev.RunLeaseExpired():
            return replace(lease, expired=True)
        case ev.RunAttemptExited():
            return replace(lease, holds_gpus=False, cause=event.cause)
        case ev.RunAttemptFailed():
            # A lost attempt is over for us; one that could not start still sends its last report.
            if event.cause.code == CauseCode.CAUSE_CODE_AGENT_LOST:
                return None
            return replace(lease, holds_gpus=False, failed=True, cause=event.cause)
        case _:
            return lease
