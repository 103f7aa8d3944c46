"""Where history comes from: the service, or the log itself when no service answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from typing import Any, Protocol, TypeVar

import click

from runyard.history.v1 import history_service_pb2 as pb
from runyard.lineage.v1 import lineage_service_pb2 as lineage_pb
from runyard_cli.output import note
from runyard_client import Client, load_context, runyard_home
from runyard_client.errors import ClientError, LocalError, Unreachable

PROBE_SECONDS_MAX = 5.0
ANSWER_SECONDS_MAX = 60.0
PAGE_SIZE = 1_000

_THIS_MACHINE = ("127.0.0.1", "localhost", "[::1]")

Result = TypeVar("Result")
Command = TypeVar("Command", bound=Callable[..., Any])


class Source(Protocol):
    """Answers every question about history."""

    async def list_events(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        """Give one page of events."""
        ...

    def watch_events(self, request: pb.WatchEventsRequest) -> AsyncIterator[pb.EventView]:
        """Give events as they come, for ever."""
        ...

    async def head(self) -> pb.GetLogHeadResponse:
        """Give the newest positions."""
        ...

    def timeline(self, request: pb.ReadTimelineRequest) -> AsyncIterator[pb.TimelineEntry]:
        """Give the entries of a timeline."""
        ...

    async def state(self, request: pb.GetStateAsOfRequest) -> pb.GetStateAsOfResponse:
        """Show a thing as it was."""
        ...

    async def explain(self, request: pb.ExplainRunRequest) -> pb.ExplainRunResponse:
        """Say which events changed a field."""
        ...

    async def diff(self, request: pb.DiffStatesRequest) -> pb.DiffStatesResponse:
        """Compare two moments."""
        ...

    async def effects(self, request: pb.ListEffectsRequest) -> pb.ListEffectsResponse:
        """Walk to everything that an event caused."""
        ...

    async def price_again(self, request: pb.PriceAgainRequest) -> pb.PriceAgainResponse:
        """Price leases with another price book."""
        ...

    async def trace(self, request: lineage_pb.TraceRequest) -> lineage_pb.TraceResponse:
        """Walk to everything that made a thing."""
        ...

    async def impact(self, request: lineage_pb.ImpactRequest) -> lineage_pb.ImpactResponse:
        """Walk to everything that a thing touched."""
        ...


def direct_option(command: Command) -> Command:
    """Add ``--direct`` to a command."""
    return click.option(
        "--direct", is_flag=True, help="Read the log itself, read-only, also when services answer."
    )(command)


def ask(work: Callable[[Source], Awaitable[Result]], *, direct: bool = False) -> Result:
    """Run a command's work with the service, or straight on the log when it does not answer.

    Raises:
        ClientError: what the service says, or that neither it nor the log can be reached.
    """
    return asyncio.run(_ask(work, direct=direct))


async def _ask(work: Callable[[Source], Awaitable[Result]], *, direct: bool) -> Result:
    unanswered: ClientError | None = None
    if not direct:
        is_here = False
        try:
            context = load_context()
            host = context.addresses["lineage"].rpartition(":")[0]
            is_here = host in _THIS_MACHINE and not context.authority_pem
            async with Client.connect(context) as client:
                await client.history.GetLogHead(pb.GetLogHeadRequest(), timeout=PROBE_SECONDS_MAX)
                return await work(ServiceSource(client))
        except Unreachable as error:
            if not is_here:
                # The log at hand would be another yard's.
                raise
            unanswered = error
        except LocalError as error:
            if error.reason != "NO_CONTEXT":
                raise
            unanswered = error
    return await _ask_log(work, unanswered)


async def _ask_log(work: Callable[[Source], Awaitable[Result]], unanswered: ClientError | None) -> Result:
    from runyard_core.errors import RunyardError, Unavailable

    # Imported here: with the service up, nobody pays for a database driver, nor needs one.
    try:
        from runyard_cli.history.direct import DirectSource
        from runyard_eventlog.personal.edge import PersonalEdge
        from runyard_replay.direct import archive_url, open_edge, open_log, reader_database_url
        from runyard_replay.imported import FILE, ImportedLog
    except ModuleNotFoundError:
        if unanswered is not None:
            raise unanswered from None
        raise

    if (runyard_home() / FILE).exists():
        with closing(ImportedLog(runyard_home() / FILE)) as imported:
            return await _answered(work(DirectSource(imported, PersonalEdge(None))))
    try:
        url = reader_database_url(runyard_home(), os.environ)
    except RunyardError as error:
        if unanswered is not None:
            raise unanswered from None
        raise LocalError(error.code, error.message) from None
    try:
        async with (
            open_log(url, archive_url(runyard_home(), os.environ)) as event_log,
            open_edge(url, runyard_home(), os.environ) as edge,
        ):
            if unanswered is not None:
                note(f"{unanswered.message}; reading the log itself, read-only")
            return await _answered(work(DirectSource(event_log, edge)))
    except Unavailable as error:
        raise Unreachable("UNAVAILABLE", error.code, error.message) from None


async def _answered(answer: Awaitable[Result]) -> Result:
    """Wait for an answer; a refusal looks as it does when a service says it."""
    from runyard_core.errors import RunyardError, Unavailable

    try:
        return await answer
    except Unavailable:
        raise
    except RunyardError as error:
        raise ClientError("REFUSED", error.code, error.message, metadata=error.metadata) from None


class ServiceSource:
    """HistoryService."""

    def __init__(self, client: Client) -> None:
        """Ask this yard."""
        self._stub = client.history
        self._lineage = client.lineage

    async def list_events(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        """See ``Source``."""
        return await self._stub.ListEvents(request, timeout=ANSWER_SECONDS_MAX)

    async def watch_events(self, request: pb.WatchEventsRequest) -> AsyncIterator[pb.EventView]:
        """See ``Source``."""
        async for item in self._stub.WatchEvents(request):
            if item.WhichOneof("item") == "event":
                yield item.event

    async def head(self) -> pb.GetLogHeadResponse:
        """See ``Source``."""
        return await self._stub.GetLogHead(pb.GetLogHeadRequest())

    async def timeline(self, request: pb.ReadTimelineRequest) -> AsyncIterator[pb.TimelineEntry]:
        """See ``Source``."""
        async for item in self._stub.ReadTimeline(request):
            yield item.entry

    async def state(self, request: pb.GetStateAsOfRequest) -> pb.GetStateAsOfResponse:
        """See ``Source``."""
        return await self._stub.GetStateAsOf(request, timeout=ANSWER_SECONDS_MAX)

    async def explain(self, request: pb.ExplainRunRequest) -> pb.ExplainRunResponse:
        """See ``Source``."""
        return await self._stub.ExplainRun(request, timeout=ANSWER_SECONDS_MAX)

    async def diff(self, request: pb.DiffStatesRequest) -> pb.DiffStatesResponse:
        """See ``Source``."""
        return await self._stub.DiffStates(request, timeout=ANSWER_SECONDS_MAX)

    async def effects(self, request: pb.ListEffectsRequest) -> pb.ListEffectsResponse:
        """See ``Source``."""
        return await self._stub.ListEffects(request, timeout=ANSWER_SECONDS_MAX)

    async def price_again(self, request: pb.PriceAgainRequest) -> pb.PriceAgainResponse:
        """See ``Source``."""
        return await self._stub.PriceAgain(request, timeout=ANSWER_SECONDS_MAX)

    async def trace(self, request: lineage_pb.TraceRequest) -> lineage_pb.TraceResponse:
        """See ``Source``."""
        return await self._lineage.Trace(request, timeout=ANSWER_SECONDS_MAX)

    async def impact(self, request: lineage_pb.ImpactRequest) -> lineage_pb.ImpactResponse:
        """See ``Source``."""
        return await self._lineage.Impact(request, timeout=ANSWER_SECONDS_MAX)
