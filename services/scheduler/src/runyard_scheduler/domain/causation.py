"""What each event of a run follows from: the one earlier event that is its direct cause.

A run's story has two beginnings, a person's request and a machine that falls silent or comes back, and every
chain of causes ends at one of them: at a command with its actor.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from google.protobuf.message import Message

from runyard.run.v1 import events_pb2 as ev
from runyard_scheduler.domain.causes import LOST_CAUSES


@dataclass(frozen=True, slots=True)
class Mark:
    """An event that later ones may follow from."""

    event_id: str = ""
    position: int = 0
    """Tells which of two came later; that of an event that is not appended yet is behind every other."""


NOTHING = Mark()


@dataclass(frozen=True, slots=True)
class Attachment:
    """The node's coming and going, as causes need it."""

    last: Mark = NOTHING
    """Its latest node.attached or node.detached."""
    attached: bool = False


@dataclass(frozen=True, slots=True)
class Trail:
    """The events of a run that later ones may follow from; those of an attempt are the latest attempt's."""

    waiting: Mark = NOTHING
    """run.queued, or the latest run.requeued."""
    granted: Mark = NOTHING
    started: Mark = NOTHING
    silent: Mark = NOTHING
    """The latest of run.unreachable and run.lease_expired."""
    stopping: Mark = NOTHING
    """run.stop_requested."""
    ended: Mark = NOTHING
    """run.attempt_exited or run.attempt_failed."""

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Its events, in the order in which ``Trail`` takes them."""
        return tuple(getattr(self, each.name) for each in fields(self))

    def after(self, message: Message, mark: Mark) -> Trail:
        """Give the trail after the next event of the run."""
        match message:
            case ev.RunQueued() | ev.RunRequeued():
                return Trail(waiting=mark)
            case ev.RunLeaseGranted():
                return Trail(waiting=self.waiting, granted=mark)
            case ev.RunStarted():
                return replace(self, started=mark)
            case ev.RunUnreachable() | ev.RunLeaseExpired():
                return replace(self, silent=mark)
            case ev.RunStopRequested():
                return replace(self, stopping=mark)
            case ev.RunAttemptExited() | ev.RunAttemptFailed():
                return replace(self, ended=mark)
            case _:
                return self

    def cause_of(self, message: Message, node: Attachment) -> str:
        """Give the event that the run's next event follows from; empty when a command alone made it.

        Args:
            message: the next event. A late report of an older attempt is not on this trail.
            node: where the latest attempt runs.
        """
        match message:
            case ev.RunLeaseGranted():
                return self.waiting.event_id
            case ev.EnvironmentCaptured() | ev.RunStarted():
                return self.granted.event_id
            case ev.RunStatusDetailSet() | ev.RunInputFetched():
                return _latest(self.granted, self.started)
            case ev.RunUnreachable():
                return self.granted.event_id if node.attached else node.last.event_id
            case ev.RunLeaseExpired():
                return self.silent.event_id
            case ev.RunReachableAgain():
                return _latest(self.silent, node.last)
            case ev.RunAttemptExited():
                return _latest(self.granted, self.started, self.stopping)
            case ev.RunAttemptFailed() if message.cause.code in LOST_CAUSES:
                came_back = node.last if node.attached else NOTHING
                return _latest(self.granted, self.started, self.stopping, self.silent, came_back)
            case ev.RunAttemptFailed():
                return _latest(self.granted, self.started, self.stopping)
            case ev.RunRequeued() | ev.RunFinished():
                return self.ended.event_id
            case _:
                return ""


def _latest(*marks: Mark) -> str:
    return max(marks, key=lambda mark: mark.position).event_id
