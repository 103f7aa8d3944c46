"""Between a service and its clients: inside, whatever names a person is sealed.

Only clients see names. Services and agents pass on what is sealed as it is.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

from runyard.event.v1.envelope_pb2 import Actor


class Edge(Protocol):
    """Seals what comes in and opens what goes out (``runyard_eventlog.personal.edge``)."""

    async def seal_actor(self, actor: Actor) -> Actor:
        """Give an actor as events shall name it."""
        ...

    async def seal_request(self, request: Any) -> None:
        """Seal in place who a request names."""
        ...

    async def open_answer(self, answer: Any) -> Any:
        """Give an answer in which names can be read."""
        ...

    async def open_text(self, text: str) -> str:
        """Give a sentence in which names can be read."""
        ...


def leave_sealed() -> None:
    """Let the answers of the RPC that this task serves go out as the log holds them."""
    _left_sealed.set(True)


def is_left_sealed() -> bool:
    """Say whether the RPC that this task serves asked for that."""
    return _left_sealed.get()


_left_sealed: ContextVar[bool] = ContextVar("runyard_left_sealed", default=False)
