"""What addresses outside the yard gave last, so that the other side can say that it is still the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runyard_agent.blocking import BlockingPool
from runyard_agent.durable_files import write_atomically

_ADDRESSES_MAX = 10_000
_LINES_MAX = 2 * _ADDRESSES_MAX


@dataclass(frozen=True, slots=True)
class Known:
    """What an address gave."""

    etag: str
    """The other side's own name for these bytes, a strong one."""
    sha256: str


class KnownAddresses:
    """The newest addresses of a node, in a file beside the cached bytes: a line each, the last of one counts.

    Nothing is taken from here alone: the other side is asked each time, with the credentials of who asks.
    What the file lost, or never got on a full disk, costs one more transfer. Addresses are kept as their
    hashes: one may hold a password.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Know what the file says, but for lines that a crash cut; without a file begin with nothing."""
        self._file = file
        self._known: dict[str, Known] = {}
        lines = _lines_of(file) if file is not None else []
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                name, etag, sha256 = json.loads(line)
                self._remember(str(name), Known(str(etag), str(sha256)))
        self._line_count = len(lines)
        # One thread: lines come in the order in which they were told.
        self._pool = BlockingPool("addresses", thread_count=1)

    def get(self, url: str) -> Known | None:
        """Give what an address gave last."""
        return self._known.get(_name(url))

    async def put(self, url: str, known: Known) -> None:
        """Remember what an address gave; the oldest is forgotten for it."""
        name = _name(url)
        self._remember(name, known)
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            if self._line_count < _LINES_MAX:
                await self._pool.run(None, _append, self._file, _line(name, known))
                self._line_count += 1
            else:
                lines = [_line(name, known) for name, known in self._known.items()]
                await self._pool.run(None, _write_anew, self._file, lines)
                self._line_count = len(lines)

    def _remember(self, name: str, known: Known) -> None:
        self._known.pop(name, None)
        self._known[name] = known
        if len(self._known) > _ADDRESSES_MAX:
            del self._known[next(iter(self._known))]


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # With the line's end first: the one before may have been cut.
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}")


def _write_anew(path: Path, lines: Sequence[str]) -> None:
    write_atomically(path, "\n".join(lines).encode())


def _lines_of(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _name(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _line(name: str, known: Known) -> str:
    return json.dumps([name, known.etag, known.sha256])
