"""Cuts what a program writes into lines for people: bounded, readable, and resumable after any feed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runyard_agent.domain.redaction import Redaction

LINE_BYTES_MAX = 64 * 1024
"""A longer line is cut into pieces of at most this many bytes."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line, or a piece of one that is too long."""

    text: str
    """Without its line end; bytes that are no text are replaced by U+FFFD."""
    is_whole: bool
    """False for a piece of a cut line."""


class LineAssembler:
    """Assembles the lines of one file from chunks of any size.

    What is not yet a line is kept in memory, at most ``LINE_BYTES_MAX`` and one chunk; after a restart it
    is read again from the file. Of text that overwrites itself with carriage returns (progress bars) the
    last state is kept, as a terminal would show it.
    """

    def __init__(
        self, offset: int = 0, *, in_cut_line: bool = False, redaction: Redaction | None = None
    ) -> None:
        """Begin at the start of the file, or where another assembler was after a feed.

        What ``redaction`` must find later is never cut in two.
        """
        self._redaction = redaction or Redaction()
        self._pending = bytearray()
        self.offset = offset
        """Offset of the first byte that is in no line given so far."""
        self.in_cut_line = in_cut_line
        """True when the last line given was a piece and the rest of its line is still to come."""

    @property
    def read_offset(self) -> int:
        """Offset of the next byte to feed."""
        return self.offset + len(self._pending)

    def feed(self, chunk: bytes) -> list[Line]:
        """Take the next bytes of the file and give the lines that they complete."""
        lines: list[Line] = []
        searched = len(self._pending)
        self._pending += chunk
        start = 0
        while (end := self._pending.find(b"\n", max(start, searched))) >= 0:
            lines += self._end_line(bytes(self._pending[start:end]))
            start = end + 1
        self._drop(start)
        if len(self._pending) > LINE_BYTES_MAX:
            self._drop(_last_state_start(self._pending))
        while len(self._pending) > LINE_BYTES_MAX + self._redaction.longest_bytes:
            piece = bytes(self._pending[: self._redaction.cut(self._pending, _piece_size(self._pending))])
            self._drop(len(piece))
            self.in_cut_line = True
            lines.append(Line(_decode(piece), is_whole=False))
        return lines

    def take_progress(self) -> list[Line]:
        """Give the newest whole state of a progress bar that has not ended its line, if there is one."""
        start = _last_state_start(self._pending)
        text = _last_state(bytes(self._pending[:start]))
        if not text or self.in_cut_line:
            return []
        self._drop(start)
        return [Line(_decode(text), is_whole=True)]

    def finish(self) -> list[Line]:
        """Give what is left when the file has ended without a line end."""
        lines = list(self._end_line(bytes(self._pending))) if self._pending else []
        self._drop(len(self._pending))
        return lines

    def _end_line(self, body: bytes) -> Iterator[Line]:
        text = _last_state(body)
        is_whole = not self.in_cut_line and len(text) <= LINE_BYTES_MAX
        self.in_cut_line = False
        while len(text) > LINE_BYTES_MAX:
            size = self._redaction.cut(text, _piece_size(text))
            yield Line(_decode(text[:size]), is_whole)
            text = text[size:]
        yield Line(_decode(text), is_whole)

    def _drop(self, count: int) -> None:
        del self._pending[:count]
        self.offset += count


def _last_state_start(text: bytes | bytearray) -> int:
    """Offset after the last carriage return that other text follows: what is before it is overwritten."""
    return text.rfind(b"\r", 0, len(text.rstrip(b"\r"))) + 1


def _last_state(text: bytes) -> bytes:
    return text.rstrip(b"\r")[_last_state_start(text) :]


def _piece_size(text: bytes | bytearray) -> int:
    """Give ``LINE_BYTES_MAX``, or up to three bytes less so that no character is cut in two."""
    for size in range(LINE_BYTES_MAX, LINE_BYTES_MAX - 4, -1):
        if text[size] & 0xC0 != 0x80:
            return size
    return LINE_BYTES_MAX


def _decode(text: bytes) -> str:
    # NUL is text to Python, but to no database that will hold this line.
    return text.decode("utf-8", errors="replace").replace("\x00", "\ufffd")
