"""How much of a list goes into one answer; the rest waits for the next page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from google.protobuf.message import Message

ANSWER_BYTES_MAX = 12 * 1024 * 1024
"""Most that what an answer lists takes, unless its first alone takes more: a message holds 16 MiB."""
_BYTES_OF_EACH = 5
"""What a list adds to an item, at most."""

ItemT = TypeVar("ItemT", bound=Message)


class Fitting(Generic[ItemT]):
    """Takes items in as long as there is room; the first in any case."""

    def __init__(self, count_max: int | None = None, bytes_max: int | None = None) -> None:
        """Begin with none.

        Args:
            count_max: most items; None for any number.
            bytes_max: most that they take together; None for ``ANSWER_BYTES_MAX``.
        """
        self.items: list[ItemT] = []
        self.has_more = False
        """There was no room for one."""
        self._count_max = count_max
        self._room = ANSWER_BYTES_MAX if bytes_max is None else bytes_max

    def add(self, item: ItemT) -> bool:
        """Take the next item in; False when there is no room for it."""
        self._room -= item.ByteSize() + _BYTES_OF_EACH
        if self.items and (self._room < 0 or len(self.items) == self._count_max):
            self.has_more = True
        else:
            self.items.append(item)
        return not self.has_more


def items_that_fit(
    items: Iterable[ItemT], *, count_max: int | None = None, bytes_max: int | None = None
) -> Fitting[ItemT]:
    """Give the first items, as many as fit; looks at none behind the first that does not."""
    fitting = Fitting[ItemT](count_max, bytes_max)
    for item in items:
        if not fitting.add(item):
            break
    return fitting
