"""What addresses outside the yard gave last, so that the other side can say that it is still the same."""

from __future__ import annotations

from dataclasses import dataclass

_ADDRESSES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Known:
    """What an address gave."""

    etag: str
    """The other side's own name for these bytes, a strong one."""
    sha256: str


class KnownAddresses:
    """The newest addresses of a node, kept in memory: a new agent asks for the bytes once more.

    Nothing is taken from here alone: the other side is asked each time, with the credentials of who asks.
    """

    def __init__(self) -> None:
        """Know none."""
        self._known: dict[str, Known] = {}

    def get(self, url: str) -> Known | None:
        """Give what an address gave last."""
        return self._known.get(url)

    def put(self, url: str, known: Known) -> None:
        """Remember what an address gave; the oldest is forgotten for it."""
        self._known.pop(url, None)
        self._known[url] = known
        if len(self._known) > _ADDRESSES_MAX:
            del self._known[next(iter(self._known))]
