"""What a hands-on session passes through the scheduler: bounded both ways, kept nowhere."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import grpc
import structlog

from runyard.agent.v1.hands_on_service_pb2 import JoinRequest, JoinResponse, JoinTask
from runyard_contracts.ids import NodeId
from runyard_core.errors import InvalidInput, Rejected, RunyardError, Unavailable

CHUNK_BYTES_MAX = 65_536
"""Most bytes of one message."""

MESSAGES_MAX = 16
"""Most messages that wait in one direction; whoever sends waits for whoever reads."""

log = structlog.get_logger("runyard.scheduler.hands_on")

Message = TypeVar("Message")


class Pipe(Generic[Message]):
    """One direction: a queue that makes its one sender wait, and that can end for a reason."""

    def __init__(self, messages_max: int = MESSAGES_MAX) -> None:
        """Begin empty."""
        self._messages: deque[Message] = deque()
        self._messages_max = messages_max
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._has_ended = False
        self._reason: RunyardError | None = None

    async def put(self, message: Message) -> None:
        """Wait for room and put a message in; nothing happens once it has ended."""
        while len(self._messages) >= self._messages_max and not self._has_ended:
            self._room.clear()
            await self._room.wait()
        if not self._has_ended:
            self._messages.append(message)
            self._news.set()

    def end(self, reason: RunyardError | None = None) -> None:
        """End it behind what is in it; the first reason counts."""
        if not self._has_ended:
            self._has_ended, self._reason = True, reason
            self._news.set()
            self._room.set()

    async def next(self) -> Message | None:
        """Take the next message; None at the end.

        Raises:
            RunyardError: the reason that it ended for.
        """
        while not self._messages:
            if self._reason is not None:
                raise self._reason
            if self._has_ended:
                return None
            self._news.clear()
            await self._news.wait()
        self._room.set()
        return self._messages.popleft()


class Channel:
    """One stream of bytes between a client and the agent of a node."""

    def __init__(
        self, channel_id: str, node_id: NodeId, task: JoinTask, tell_bytes: Callable[[int], None]
    ) -> None:
        """Wait for the agent.

        Args:
            channel_id: names it in the order to the agent.
            node_id: whose agent may join.
            task: what the agent is asked.
            tell_bytes: called with the size of whatever comes from the agent.
        """
        self.channel_id = channel_id
        self.node_id = node_id
        self.task = task
        self.to_agent: Pipe[JoinResponse] = Pipe()
        self.to_client: Pipe[JoinRequest] = Pipe()
        self._tell_bytes = tell_bytes

    def end(self, reason: RunyardError | None = None) -> None:
        """End both directions."""
        self.to_agent.end(reason)
        self.to_client.end(reason)

    async def listen(self, requests: AsyncIterator[JoinRequest]) -> None:
        """Take what the agent sends until its stream ends."""
        try:
            async for request in requests:
                if not await self._take(request):
                    return
        except grpc.aio.UsageError:
            # gRPC's way to say that the stream is gone.
            pass
        except Exception:  # the top of an agent's stream: one broken agent must not take the others along
            log.exception("hands-on stream failed", node_id=self.node_id)
        finally:
            self.end(_agent_lost(self.node_id))

    async def _take(self, request: JoinRequest) -> bool:
        match request.WhichOneof("message"):
            case "refused":
                refused = request.refused
                self.to_client.end(Rejected(refused.message, code=refused.code or "REFUSED_BY_AGENT"))
                return False
            case "output":
                self._tell_bytes(len(request.output))
            case "error_output":
                self._tell_bytes(len(request.error_output))
            case _:
                pass
        if max(len(request.output), len(request.error_output)) > CHUNK_BYTES_MAX:
            self.to_client.end(too_large())
            return False
        await self.to_client.put(request)
        return True


def too_large() -> InvalidInput:
    """Say that a message holds more bytes than it may."""
    return InvalidInput(f"a message holds at most {CHUNK_BYTES_MAX} bytes", code="CHUNK_TOO_LARGE")


def _agent_lost(node_id: NodeId) -> Unavailable:
    return Unavailable(
        f"the agent of node {node_id} ended or was cut off; the run is not touched by that, try again",
        code="AGENT_LOST",
    )
