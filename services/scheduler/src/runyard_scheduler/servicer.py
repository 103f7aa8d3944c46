"""First station: ``runyard.run.v1.SchedulerService``, from requests to handlers and queries and back."""

# ruff: noqa: ARG002 - every method has gRPC's signature

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from runyard.event.v1.read_pb2 import ReadOptions
from runyard.run.v1 import scheduler_service_pb2 as pb
from runyard.run.v1 import scheduler_service_pb2_grpc
from runyard.run.v1.types_pb2 import Run, RunState
from runyard_contracts.answer_size import items_that_fit
from runyard_contracts.ids import Position, RunId, is_name
from runyard_core.errors import InvalidInput, NotFound
from runyard_scheduler.handlers import Handlers
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.planner import Planner
from runyard_scheduler.projections.run_parts import PARTED
from runyard_scheduler.queries import RUN_ID_LENGTH, Queries
from runyard_scheduler.run_filter import parse_filter
from runyard_scheduler.sessions import Sessions
from runyard_scheduler.watch import Watched, Watches
from runyard_servicekit.auth import require_role
from runyard_servicekit.large_runs import fit_run
from runyard_servicekit.paging import (
    After,
    PageToken,
    decode_page_token,
    encode_page_token,
    page_query,
    page_size,
)

Context = grpc.aio.ServicerContext[Any, Any]


class SchedulerServicer(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    """Serves clients."""

    def __init__(
        self,
        ledger: Ledger,
        handlers: Handlers,
        queries: Queries,
        watches: Watches,
        planner: Planner,
        sessions: Sessions,
    ) -> None:
        """Answer from these stations."""
        self._ledger = ledger
        self._handlers = handlers
        self._queries = queries
        self._watches = watches
        self._planner = planner
        self._sessions = sessions

    async def SubmitRun(self, request: pb.SubmitRunRequest, context: Context) -> pb.SubmitRunResponse:
        """Queue a run."""
        require_role("client", "service")
        shown = await self._handlers.submit(request)
        return pb.SubmitRunResponse(run=shown.run, position=shown.position)

    async def StopRun(self, request: pb.StopRunRequest, context: Context) -> pb.StopRunResponse:
        """Ask for a run to end."""
        require_role("client", "service")
        run_id = await self.run_id(request.name)
        shown = await self._handlers.stop(run_id, request)
        entry = self._ledger.world.run(shown.run.run_id)
        lease = None if entry is None else entry.run.live_lease
        if entry is not None and lease is not None and lease.holds_gpus:
            self._sessions.send_stop(entry, lease)
        fit_run(shown.run)
        return pb.StopRunResponse(run=shown.run, position=shown.position)

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """Show one run."""
        require_role("client", "service")
        position = await self._queries.position(request.read)
        run_id = await self._queries.run_id(request.name, position)
        run = await self._queries.run(run_id, position)
        if request.read.as_of.WhichOneof("at") is None:
            self._explain([run])
        return pb.GetRunResponse(run=run, position=position)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """Page through runs, newest first."""
        require_role("client", "service")
        limit = page_size(request.page_size)
        wanted = parse_filter(request.filter)
        masked = _masked(list(request.read_mask.paths))
        query = page_query(request.filter, *request.read_mask.paths, read=request.read)
        token = decode_page_token(request.page_token, query, like=(0,))
        position = await self._pinned(token, request.read)
        before = None if token is None else token.after[0]
        is_brief = request.brief or (masked is not None and masked.isdisjoint(PARTED))
        found = await self._queries.runs(wanted, position, before=before, limit=limit, is_brief=is_brief)
        next_page_token = ""
        if found.has_more:
            place = PageToken(position, (found.runs[-1].queued_position,))
            next_page_token = encode_page_token(place, query)
        runs = [listed.run for listed in found.runs]
        if request.read.as_of.WhichOneof("at") is None:
            self._explain(runs)
        for run in runs:
            _clear(run, masked)
        return pb.ListRunsResponse(runs=runs, next_page_token=next_page_token, position=position)

    async def WatchRuns(
        self, request: pb.WatchRunsRequest, context: Context
    ) -> AsyncIterator[pb.WatchRunsResponse]:
        """Stream the events of runs."""
        require_role("client", "service")
        run_id = await self.run_id(request.name) if request.name else None
        watched = Watched(request.after_position, run_id, request.project)
        async for response in self._watches.watch(watched):
            yield response

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:
        """Show one node."""
        require_role("client", "service")
        if not is_name(request.node_id):
            raise NotFound(f"there is no node {request.node_id!r}", code="NODE_NOT_FOUND")
        position = await self._queries.position(request.read)
        return pb.GetNodeResponse(node=await self._queries.node(request.node_id, position), position=position)

    async def ListNodes(self, request: pb.ListNodesRequest, context: Context) -> pb.ListNodesResponse:
        """Page through nodes, by name."""
        require_role("client", "service")
        limit = page_size(request.page_size)
        query = page_query("nodes", read=request.read)
        token = decode_page_token(request.page_token, query, like=("",))
        position = await self._pinned(token, request.read)
        after = "" if token is None else token.after[0]
        found = await self._queries.nodes(position, after=after, limit=limit + 1)
        nodes = items_that_fit(found, count_max=limit)
        next_page_token = ""
        if nodes.has_more:
            next_page_token = encode_page_token(PageToken(position, (nodes.items[-1].node_id,)), query)
        return pb.ListNodesResponse(nodes=nodes.items, next_page_token=next_page_token, position=position)

    async def run_id(self, name: str) -> RunId:
        """Find the run that a name means; see ``Queries.run_id``."""
        if self._ledger.world.run(name) is not None:
            return RunId(name)
        if len(name) == RUN_ID_LENGTH and "#" not in name:
            # Whoever has a whole id was told it: the log has the run, whoever else is behind.
            return (await self._ledger.run_in_log(name)).run.run_id
        # What this process knows the caller may know too, also when the read model is a moment behind.
        position = await self._queries.latest(self._ledger.known_position)
        return await self._queries.run_id(name, position)

    async def _pinned(self, token: PageToken[After] | None, read: ReadOptions) -> Position:
        return await self._queries.position(read) if token is None else Position(token.position)

    def _explain(self, runs: Sequence[Run]) -> None:
        for run in runs:
            if run.state == RunState.RUN_STATE_QUEUED:
                run.waiting_reason = self._planner.waiting_reason(run.run_id)


def _masked(paths: Sequence[str]) -> frozenset[str] | None:
    """Give the top-level fields to fill; None for the usual ones."""
    unknown = [path for path in paths if path not in Run.DESCRIPTOR.fields_by_name]
    if unknown:
        raise InvalidInput(
            f"read_mask: {unknown[0]!r} is not a field of Run",
            code="BAD_READ_MASK",
            field_violations={"read_mask": f"unknown: {', '.join(unknown)}"},
        )
    return frozenset(paths) or None


def _clear(run: Run, wanted: frozenset[str] | None) -> None:
    if wanted is None:
        run.spec.ClearField("environment_variables")
        return
    _keep_only(run, wanted)


def _keep_only(message: Message, wanted: frozenset[str]) -> None:
    for descriptor, _ in message.ListFields():
        if descriptor.name not in wanted:
            message.ClearField(descriptor.name)
