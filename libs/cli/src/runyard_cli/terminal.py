"""The user's terminal while a shell of somewhere else has it: raw, and its size."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from collections.abc import Iterator


class Terminal:
    """A terminal of this machine."""

    def __init__(self, descriptor: int, kind: str) -> None:
        """Use an open terminal; ``kind`` is what ``$TERM`` says of it."""
        self._descriptor = descriptor
        self.kind = kind or "xterm"

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        try:
            found = os.get_terminal_size(self._descriptor)
        except OSError:
            return 80, 24
        return found.columns, found.lines

    @contextlib.contextmanager
    def raw(self) -> Iterator[None]:
        """Pass every key on as it is, ctrl-C too, while the block runs."""
        before = termios.tcgetattr(self._descriptor)
        try:
            # What was typed ahead is kept.
            tty.setraw(self._descriptor, termios.TCSADRAIN)
            yield
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)
