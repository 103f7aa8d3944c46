"""What clients ask for: submit a run, stop a run."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.scheduler_service_pb2 import StopRunRequest, SubmitRunRequest
from runyard.run.v1.types_pb2 import CauseCode
from runyard.run.v1.types_pb2 import Run as RunDocument
from runyard_contracts.ids import Position, RunId, stream_category, stream_id, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import Clock
from runyard_core.errors import Corrupt, InvalidInput, Rejected
from runyard_replay.folding.runs import apply_to_run
from runyard_scheduler.changes import SERVICE, Change, change, run_changes
from runyard_scheduler.domain import project as project_domain
from runyard_scheduler.domain import run as run_domain
from runyard_scheduler.domain.placement import Requirement, Supply, check_possible
from runyard_scheduler.domain.run_commands import Queue, RequestStop
from runyard_scheduler.domain.run_state import Run
from runyard_scheduler.domain.spec import check_request, with_defaults
from runyard_scheduler.ledger import Committed, Ledger
from runyard_servicekit.context import command_id, request_context

RefuseSecrets = Callable[[str, bytes], Awaitable[None]]
"""Raises Rejected when a text, for a run of a project, holds the value of one of its secrets."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A run as of a position."""

    run: RunDocument
    position: Position


class Handlers:
    """Runs the commands of clients. Call within an RPC: the caller is part of each command."""

    def __init__(self, ledger: Ledger, clock: Clock, refuse_secrets: RefuseSecrets | None = None) -> None:
        """Decide on this ledger's world; ``refuse_secrets`` sees what is about to become an event."""
        self._ledger = ledger
        self._clock = clock
        self._refuse_secrets = refuse_secrets
        # One submit of a project at a time: they all take its next number.
        self._numbering: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def submit(self, request: SubmitRunRequest) -> Shown:
        """Queue a run; repeating the request gives the first answer again.

        Raises:
            InvalidInput: the request is wrong.
            Rejected: no enrolled node can ever run it (IMPOSSIBLE_RESOURCES), or it holds the value of a
                secret of the project (SECRET_IN_REQUEST).
            IdReused: the request_id came with another request before.
            Unavailable: the log did not answer; the same request may be tried again.
        """
        tags = tuple(request.tags)
        check_request(request.project, request.spec, request.title, tags)
        command = command_id(SERVICE, "SubmitRun", request.request_id)
        digest = _digest(request)
        spec = with_defaults(request.spec)
        try:
            check_possible(Requirement.of(spec), self._supplies())
            if self._refuse_secrets is not None:
                await self._refuse_secrets(request.project, _kept_of(request))
        except Rejected:
            # It may have been possible when it was asked for the first time.
            known = await self._ledger.committed(command, digest)
            if known is None:
                raise
            return _queued(known)
        run_id = RunId(uuid7())

        async def decide() -> Sequence[Change]:
            project = self._ledger.world.project(request.project)
            numbered = project_domain.decide(
                project.project, project_domain.NumberRun(request.project, run_id)
            )
            number = project_domain.PROJECT.fold(numbered, project.project).last_number
            queue = Queue(run_id, request.project, number, spec, request.title, tags)
            queued = run_domain.decide(Run(), queue)
            context = request_context(SERVICE, correlation_id=run_id)
            now = self._clock.now()
            return [
                change("project", request.project, project.version, numbered, context, now),
                change("run", run_id, 0, queued, context, now),
            ]

        async with self._numbering.setdefault(request.project, asyncio.Lock()):
            committed = await self._ledger.transact(command, decide, digest)
        if committed is None:
            raise AssertionError("queueing a new run always makes events")
        return _queued(committed)

    async def stop(self, run_id: RunId, request: StopRunRequest) -> Shown:
        """Ask for a run to end; asking again is not an error. A repeated request means its first run.

        Raises:
            InvalidInput: no request_id, or a reason that nothing can hold.
            NotFound: there is no such run.
            Rejected: the reason holds the value of a secret of the project (SECRET_IN_REQUEST).
            IdReused: the request_id came with another request before.
            Unavailable: the log did not answer; the same request may be tried again.
        """
        command = command_id(SERVICE, "StopRun", request.request_id)
        digest = _digest(request)
        known = await self._ledger.committed(command, digest)
        if known is None:
            await self._check_reason(run_id, request.reason)
            known = await self._ledger.transact(command, lambda: self._decide_stop(run_id, request), digest)
        # "project#latest" may stand for another run by now.
        history = await self._ledger.history(run_id if known is None else _run_of(known))
        if known is not None:
            history = [event for event in history if event.position <= known.position]
        return _shown(history)

    async def _check_reason(self, run_id: RunId, reason: str) -> None:
        if "\0" in reason:
            raise InvalidInput("reason: holds a zero byte", field_violations={"reason": "holds a zero byte"})
        if not reason or self._refuse_secrets is None:
            return
        try:
            await self._refuse_secrets((await self._ledger.run(run_id)).run.project, reason.encode())
        except (Corrupt, Rejected) as error:
            # Where secrets cannot be opened nobody can tell, and a run must come to its end all the same.
            if error.code == "SECRET_IN_REQUEST":
                raise

    async def _decide_stop(self, run_id: RunId, request: StopRunRequest) -> Sequence[Change]:
        entry = await self._ledger.run(run_id)
        stop = RequestStop(CauseCode.CAUSE_CODE_STOPPED_BY_USER, request.reason)
        context = request_context(SERVICE, correlation_id=entry.correlation_id)
        decided = run_domain.decide(entry.run, stop)
        return run_changes(self._ledger.world, entry, decided, context, self._clock.now())

    def _supplies(self) -> list[Supply]:
        return [Supply.of(entry.node, attached=True) for entry in self._ledger.world.nodes()]


def _kept_of(request: SubmitRunRequest) -> bytes:
    """Give what of a request becomes an event; in protobuf every text stands as it is."""
    words = "\n".join((request.title, *request.tags)).encode()
    return request.spec.SerializeToString() + b"\n" + words


def _digest(request: SubmitRunRequest | StopRunRequest) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _run_of(committed: Committed) -> RunId:
    streams = (event.envelope.stream for event in committed.events)
    return RunId(next(stream_id(stream) for stream in streams if stream_category(stream) == "run"))


def _queued(committed: Committed) -> Shown:
    queued = [event for event in committed.events if isinstance(event.message, ev.RunQueued)]
    if not queued:
        raise Corrupt(f"the command at position {committed.position} queued no run")
    return _shown(queued)


def _shown(history: Sequence[RecordedEvent]) -> Shown:
    document = RunDocument()
    for event in history:
        apply_to_run(document, event)
    return Shown(document, history[-1].position)
