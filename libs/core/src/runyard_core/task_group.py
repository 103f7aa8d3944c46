"""``asyncio.TaskGroup`` whose failure leaves nothing behind in the task that waited for it."""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType


class TaskGroup(asyncio.TaskGroup):  # noqa: TID251 - the one place
    """The group that all our code uses: its task may go on after it has failed.

    Where one of its tasks fails while the group is waited for, Python 3.11 asks the waiting task to cancel
    and never takes that back. Before 3.11.4 every later ``asyncio.timeout`` of that task then ends with
    ``CancelledError`` in place of ``TimeoutError``, which ends the task, and nobody is told.
    """

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for all tasks."""
        taken_back = self._asked_to_cancel()
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            waiting = asyncio.current_task()
            if waiting is not None and self._asked_to_cancel() and not taken_back:
                waiting.uncancel()

    def _asked_to_cancel(self) -> bool:
        # Later versions take it back, or need not, as their timeouts count from where they began.
        return sys.version_info < (3, 12) and bool(getattr(self, "_parent_cancel_requested", False))
