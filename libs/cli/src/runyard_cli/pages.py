"""A list that a service gives in pages, whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, Self, TypeVar

PAGE_SIZE = 1_000
"""Items of a page: as many as a service gives."""


class PageRequest(Protocol):
    """Asks for a page."""

    page_token: str


class Page(Protocol):
    """Answers with items, and with the token of the next page; without one it is the last."""

    next_page_token: str

    def MergeFrom(self, other: Self, /) -> None:
        """Take the items of another one behind its own."""
        ...


RequestT = TypeVar("RequestT", bound=PageRequest)
PageT = TypeVar("PageT", bound=Page)


async def every_page(ask: Callable[[RequestT], Awaitable[PageT]], request: RequestT) -> PageT:
    """Ask for page after page; gives them as one, as of the moment of the first.

    Args:
        ask: the method of a service.
        request: for the first page; it is changed.

    Raises:
        ClientError: as the method.
    """
    whole = await ask(request)
    while whole.next_page_token:
        request.page_token = whole.next_page_token
        whole.next_page_token = ""
        whole.MergeFrom(await ask(request))
    return whole
