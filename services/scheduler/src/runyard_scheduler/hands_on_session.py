"""One open hands-on session: what it is of, what has passed, and how it is recorded when it is over."""

from __future__ import annotations

import asyncio

from runyard.agent.v1.hands_on_service_pb2 import JoinTask
from runyard.run.v1.hands_on_pb2 import ExitStatus, HandsOnEndReason, HandsOnOpened
from runyard_core.errors import RunyardError
from runyard_scheduler.domain.run_commands import CloseHandsOn
from runyard_scheduler.domain.run_state import Lease, Run
from runyard_scheduler.hands_on_channel import Channel

_END_REASONS = {
    "ATTEMPT_ENDED": HandsOnEndReason.HANDS_ON_END_REASON_ATTEMPT_ENDED,
    "SESSION_IDLE": HandsOnEndReason.HANDS_ON_END_REASON_IDLE,
    "AGENT_LOST": HandsOnEndReason.HANDS_ON_END_REASON_AGENT_LOST,
    "STOPPING": HandsOnEndReason.HANDS_ON_END_REASON_SCHEDULER_STOPPED,
}


class HandsOnSession:
    """One open session: what it is of, what has passed, and how it ended."""

    def __init__(self, session_id: str, run: Run, lease: Lease, task: JoinTask) -> None:
        """Begin; ``task`` is what the agent was asked."""
        self.opened = HandsOnOpened(
            session_id=session_id,
            run_id=run.run_id,
            attempt=lease.attempt,
            node_id=lease.node_id,
            title=f"{run.project}#{run.number}",
        )
        self.session_id = session_id
        self.run_id = run.run_id
        self.epoch = lease.epoch
        self.node_id = lease.node_id
        self.port = task.forward.port
        self.channel = Channel(session_id, lease.node_id, task, self.received)
        self.connections: set[Channel] = set()
        self.connection_count = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.passed_at = asyncio.get_running_loop().time()
        self.exit_status: ExitStatus | None = None

    def sent(self, size: int) -> None:
        """Count what goes to the attempt."""
        self.sent_bytes += size
        self.passed_at = asyncio.get_running_loop().time()

    def received(self, size: int) -> None:
        """Count what comes from the attempt."""
        self.received_bytes += size
        self.passed_at = asyncio.get_running_loop().time()

    def end(self, reason: RunyardError | None) -> None:
        """End the session with everything that passes in it; without a reason because its client has left."""
        for channel in (self.channel, *self.connections):
            channel.end(reason)

    def closed(self, error: RunyardError | None) -> CloseHandsOn:
        """Give the command that records how it ended: by an error, by itself, or because its client left."""
        reason, detail = HandsOnEndReason.HANDS_ON_END_REASON_CLIENT_LEFT, ""
        if self.exit_status is not None:
            reason = HandsOnEndReason.HANDS_ON_END_REASON_EXITED
        elif error is not None:
            reason = _END_REASONS.get(error.code, HandsOnEndReason.HANDS_ON_END_REASON_FAILED)
            if reason == HandsOnEndReason.HANDS_ON_END_REASON_FAILED:
                detail = error.message
        return CloseHandsOn(
            self.session_id,
            self.opened.attempt,
            self.epoch,
            reason,
            detail,
            self.exit_status,
            self.sent_bytes,
            self.received_bytes,
            self.connection_count,
        )
