"""The network between agents and the scheduler: ordered streams that stall, break, and arrive late."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import grpc

from runyard.agent.v1.agent_service_pb2 import AttachRequest, AttachResponse
from runyard_core.errors import RunyardError
from tests.sim.universe import Universe

MessageT = TypeVar("MessageT")

_SERVER_KEEPALIVE_SECONDS = (20.0, 60.0)


@dataclass(frozen=True, slots=True)
class End:
    """The last thing on a stream: how it ended."""

    code: grpc.StatusCode
    details: str = ""


class Open:
    """The first thing on a stream."""


class Wire:
    """One direction between a machine and the scheduler."""

    def __init__(self) -> None:
        self.is_cut = False
        self._pipes: dict[int, Pipe[object]] = {}
        self._count = 0

    def add(self, pipe: Pipe[object]) -> int:
        self._count += 1
        self._pipes[self._count] = pipe
        return self._count

    def remove(self, number: int) -> None:
        self._pipes.pop(number, None)

    def cut(self) -> None:
        self.is_cut = True

    def heal(self) -> None:
        self.is_cut = False
        for pipe in list(self._pipes.values()):
            pipe.resume()


class Pipe(Generic[MessageT]):
    """Carries the messages of one stream in one direction, in order, each with its own delay."""

    def __init__(self, universe: Universe, wire: Wire, deliver: Callable[[MessageT], None]) -> None:
        self._universe = universe
        self._wire = wire
        self._deliver = deliver
        self._sent: deque[MessageT] = deque()
        self._due = 0
        self._last_at = 0.0
        self._stalled_since: float | None = None
        self._closed = False
        self._number = wire.add(self)  # type: ignore[arg-type] # a wire never looks at messages

    def send(self, message: MessageT) -> None:
        if self._closed:
            return
        self._sent.append(message)
        delay = self._universe.between(0.0, 0.05)
        if self._universe.likely(0.01):
            delay += self._universe.between(0.0, 5.0)
        self._later(delay)

    def close(self) -> None:
        """Lose what is on its way."""
        self._closed = True
        self._sent.clear()
        self._wire.remove(self._number)

    def resume(self) -> None:
        if self._stalled_since is None:
            return
        # A sender that waited long waits as long again before it tries once more, up to a minute.
        stalled_seconds = self._universe.clock.monotonic_seconds() - self._stalled_since
        self._stalled_since = None
        self._last_at = 0.0
        self._later(self._universe.between(0.0, min(60.0, stalled_seconds)), count=0)

    def _later(self, delay_seconds: float, count: int = 1) -> None:
        loop = asyncio.get_running_loop()
        self._last_at = max(self._last_at, loop.time() + delay_seconds)
        loop.call_at(self._last_at, self._arrive, count)

    def _arrive(self, count: int) -> None:
        self._due += count
        if self._wire.is_cut:
            if self._stalled_since is None:
                self._stalled_since = self._universe.clock.monotonic_seconds()
            return
        while self._due and self._sent and self._stalled_since is None:
            self._due -= 1
            self._deliver(self._sent.popleft())


class Server(Protocol):
    """Who takes streams: a scheduler process."""

    def accept(self, connection: Connection) -> None:
        """Serve a stream."""
        ...


class Connection:
    """One Attach stream, with an end on each side."""

    def __init__(self, universe: Universe, node: Neighbour, server_of: Callable[[], Server | None]) -> None:
        self.node_id = node.node_id
        self._universe = universe
        self._server_of = server_of
        self.requests: asyncio.Queue[AttachRequest] = asyncio.Queue()
        self.responses: asyncio.Queue[AttachResponse | End] = asyncio.Queue()
        self.end: End | None = None
        """Set at the agent's side when the stream has ended there."""
        self.serving: asyncio.Task[None] | None = None
        self._up: Pipe[AttachRequest | Open | End] = Pipe(universe, node.up, self._arrive_up)
        self._down: Pipe[AttachResponse | End] = Pipe(universe, node.down, self._arrive_down)
        self._up.send(Open())

    # The agent's side.

    def send_up(self, request: AttachRequest) -> None:
        self._up.send(request)

    def leave(self, *, silently: bool) -> None:
        """The agent goes; silently when its machine lost power, or the last packet is lost."""
        if self.end is None:
            self.end = End(grpc.StatusCode.CANCELLED, "cancelled")
            self._down.close()
            if silently or self._universe.likely(0.2):
                self._break_later()
            else:
                self._up.send(self.end)

    # The scheduler's side.

    async def incoming(self) -> AsyncIterator[AttachRequest]:
        while True:
            yield await self.requests.get()

    def send_down(self, message: AttachResponse | End) -> None:
        self._down.send(message)

    def lost_by_server(self) -> None:
        """The scheduler's process has died, or its keepalive has found nobody."""
        self._up.close()
        self._down.send(End(grpc.StatusCode.UNAVAILABLE, "connection reset"))
        if self.serving is not None:
            self.serving.cancel()

    def _break_later(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(self._universe.between(*_SERVER_KEEPALIVE_SECONDS), self.lost_by_server)

    def _arrive_up(self, message: AttachRequest | Open | End) -> None:
        match message:
            case Open():
                server = self._server_of()
                if server is None:
                    self._up.close()
                    self._down.send(End(grpc.StatusCode.UNAVAILABLE, "connection refused"))
                else:
                    server.accept(self)
            case End():
                self.lost_by_server()
            case _:
                self.requests.put_nowait(message)

    def _arrive_down(self, message: AttachResponse | End) -> None:
        if self.end is None:
            if isinstance(message, End):
                self.end = message
            self.responses.put_nowait(message)


class Neighbour:
    """A machine as the network knows it."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.up = Wire()
        self.down = Wire()
        self.connections: list[Connection] = []

    def leave(self, *, silently: bool) -> None:
        """The agent's process has ended: so have its connections."""
        for connection in self.connections:
            connection.leave(silently=silently)
        self.connections.clear()

    def reset(self) -> None:
        """Break the streams for both sides."""
        for connection in self.connections:
            connection.lost_by_server()


class Network:
    """All machines, and the scheduler when it runs."""

    def __init__(self, universe: Universe, node_ids: Sequence[str]) -> None:
        self._universe = universe
        self.neighbours = {node_id: Neighbour(node_id) for node_id in node_ids}
        self.server: Server | None = None

    def channel(self, address: str, options: object = None) -> Channel:
        """Take the place of ``grpc.aio.insecure_channel``; an agent's address is its own node id."""
        return Channel(self, self.neighbours[address])

    def connect(self, node: Neighbour) -> Connection:
        connection = Connection(self._universe, node, lambda: self.server)
        node.connections = [known for known in node.connections if known.end is None]
        node.connections.append(connection)
        return connection


class Channel:
    """What the agent's generated stub takes for a channel."""

    def __init__(self, network: Network, node: Neighbour) -> None:
        self._network = network
        self._node = node

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def stream_stream(self, *_: object, **__: object) -> Callable[..., Call]:
        return lambda **_: Call(self._network.connect(self._node))


class Call:
    """What the agent takes for a ``grpc.aio.StreamStreamCall``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, request: AttachRequest) -> None:
        if self._connection.end is not None:
            raise _error(self._connection.end)
        copy = AttachRequest()
        copy.CopyFrom(request)
        self._connection.send_up(copy)
        await asyncio.sleep(0)

    async def read(self) -> object:
        end = self._connection.end
        if end is not None and self._connection.responses.empty():
            raise _error(end)
        message = await self._connection.responses.get()
        if isinstance(message, End):
            if message.code == grpc.StatusCode.OK:
                return grpc.aio.EOF
            raise _error(message)
        return message

    def cancel(self) -> bool:
        self._connection.leave(silently=False)
        return True

    async def code(self) -> grpc.StatusCode:
        end = self._connection.end
        return grpc.StatusCode.UNKNOWN if end is None else end.code

    async def details(self) -> str:
        end = self._connection.end
        return "" if end is None else end.details


def end_of(error: RunyardError | None) -> End:
    """Give what an error of the servicer is on the wire, as far as an agent looks at it."""
    if error is None:
        return End(grpc.StatusCode.OK)
    return End(grpc.StatusCode.UNAVAILABLE, f"{error.code}: {error.message}")


def _error(end: End) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(end.code, grpc.aio.Metadata(), grpc.aio.Metadata(), end.details)
