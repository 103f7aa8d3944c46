"""Moving and hashing files with a line of progress, where there is a terminal to show it."""

from __future__ import annotations

import sys
import threading
import time

from runyard_cli.output import is_json, safe
from runyard_cli.words import size_words

_SHOW_EVERY_SECONDS = 0.1


class Progress:
    """Counts bytes from any thread and shows them on standard error."""

    def __init__(self, name: str, total_bytes: int) -> None:
        """Prepare; ``total_bytes`` is 0 when unknown."""
        self._name = safe(name)
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._hashed_bytes = 0
        self._shown_at = time.monotonic()
        self._lock = threading.Lock()
        self._is_shown = sys.stderr.isatty() and not is_json()

    def add(self, byte_count: int) -> None:
        """Count bytes that have moved."""
        with self._lock:
            self._done_bytes += byte_count
            self._show()

    def add_hashed(self, byte_count: int) -> None:
        """Count bytes that have been hashed: what comes before they move."""
        with self._lock:
            self._hashed_bytes += byte_count
            self._show()

    def close(self) -> None:
        """Take the line away."""
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _show(self) -> None:
        now = time.monotonic()
        if self._is_shown and now - self._shown_at > _SHOW_EVERY_SECONDS:
            self._shown_at = now
            of = f" of {size_words(self._total_bytes)}" if self._total_bytes else ""
            hashed = ""
            if 0 < self._hashed_bytes < self._total_bytes:
                hashed = f", {size_words(self._hashed_bytes)} hashed"
            sys.stderr.write(f"\r\x1b[K{self._name}: {size_words(self._done_bytes)}{of}{hashed}")
            sys.stderr.flush()
