"""Takes the values of secrets out of what a program writes, before anybody keeps it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

REDACTED = "***"
VALUE_LENGTH_MIN = 4
"""A shorter value, or line of a value, would make every text unreadable and hide nothing."""

# By nobody; by quote() of Python; by encodeURIComponent; by clients that mend a whole address.
_KEPT_IN_ADDRESSES = ("", "/", "!'()*", "!#$%&'()*+,/:;=?@[]~")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Redaction:
    """Knows the secrets of one attempt.

    A value is found as it stands, as JSON writes it, and, where it has several lines, line by line: output is
    read by lines. It is also found in base64, wherever in a longer text it stood, in hexadecimal digits, and
    as an address writes it. What else a program makes of a value (a hash, half of it, base64 that is broken
    into lines) is not known to be secret.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        """Take these values out; none is fine."""
        self._texts = sorted({text for value in values for text in _forms(value)})
        self.longest_bytes = max((len(text.encode()) for text in self._texts), default=0)
        """Bytes of the longest text that may have to be taken out."""

    def of(self, text: str) -> str:
        """Give a text without them."""
        # Faster than one expression for all, for one secret as for hundreds.
        if not any(each in text for each in self._texts):
            return text
        parts, at = [], 0
        for start, end in _joined(sorted(_places(text, self._texts))):
            parts += [text[at:start], REDACTED]
            at = end
        return "".join([*parts, text[at:]])

    def cut(self, text: bytes | bytearray, size: int) -> int:
        """Give where to cut a text at ``size`` bytes or before, so that no value is cut in two.

        ``text`` must go on for ``longest_bytes`` after that, if it goes on for so long.
        """
        near = bytes(text[max(0, size - self.longest_bytes) : size + self.longest_bytes])
        border = min(size, self.longest_bytes)
        places = _joined(sorted(_places(near, [each.encode() for each in self._texts])))
        for start, end in places:
            # A value that begins the text is cut after it: some piece must be given.
            if start < border < end:
                return size - border + start or size - border + end
        return size


def _forms(value: str) -> Iterator[str]:
    for form in (
        value,
        *value.splitlines(),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
    ):
        text = form.strip()
        if len(text) >= VALUE_LENGTH_MIN:
            yield text
    if len(value.strip()) >= VALUE_LENGTH_MIN:
        data = value.encode()
        yield from (quote(value, safe=signs) for signs in _KEPT_IN_ADDRESSES)
        yield from (quote_plus(value), data.hex(), data.hex().upper())
        yield from _in_base64(data)


def _in_base64(data: bytes) -> Iterator[str]:
    """Give the characters that stand for a value and for nothing beside it, wherever in a text it begins."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data)
        whole = slice((before * 8 + 5) // 6, (before + len(data)) * 8 // 6)
        yield encoded[whole].decode()
        yield encoded[whole].translate(_URL_SAFE).decode()


def _places(text: str | bytes, values: Iterable[str | bytes]) -> Iterator[tuple[int, int]]:
    """Give where each value stands, also where two stand within each other."""
    for value in values:
        start = text.find(value)  # type: ignore[arg-type]  # both are text, or both bytes
        while start >= 0:
            yield start, start + len(value)
            start = text.find(value, start + 1)  # type: ignore[arg-type]


def _joined(places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join places that overlap or touch."""
    first: tuple[int, int] | None = None
    for start, end in places:
        if first is not None and start <= first[1]:
            first = (first[0], max(first[1], end))
            continue
        if first is not None:
            yield first
        first = (start, end)
    if first is not None:
        yield first
