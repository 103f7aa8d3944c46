"""Cancellations that a library has swallowed."""

from __future__ import annotations

import asyncio


def end_if_cancelled() -> None:
    """End the task when its cancellation was swallowed.

    The bus client waits with wait_for, which in Python 3.11 forgets a cancellation that comes together with
    the answer.

    Raises:
        CancelledError: the task was asked to end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
