"""Samples that are missing at the end of an attempt are flagged, though nothing comes after them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.message import Message

from runyard.metric.v1.batches_pb2 import AttemptRef, HostSamplesRecorded
from runyard.run.v1.events_pb2 import RunAttemptExited
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.folding.gaps import GapWatch

LAST_SAMPLE = 1_767_225_600_000


def recorded(message: Message, stream: str) -> RecordedEvent:
    context = Context(parse_actor("agent:n1"), correlation_id="r", source="/agents/n1")
    at = datetime.fromtimestamp(LAST_SAMPLE / 1000, UTC)
    envelope = wrap(message, StreamName(stream), context, at)
    envelope.recorded_at.FromDatetime(at)
    return RecordedEvent(envelope)


def exited_after(milliseconds: int, attempt: int = 1) -> RunAttemptExited:
    exited = RunAttemptExited(run_id="r", attempt=attempt)
    exited.exited_at.FromMilliseconds(LAST_SAMPLE + milliseconds)
    return exited


@pytest.mark.parametrize(
    ("exited", "flags"),
    [
        (exited_after(40_000), ["no host samples for 40 s before the end"]),
        (exited_after(4_000), []),
        (exited_after(40_000, attempt=2), []),
    ],
)
def test_a_program_that_ended_long_after_its_last_sample_has_a_gap(
    exited: RunAttemptExited, flags: list[str]
) -> None:
    watch = GapWatch()
    samples = HostSamplesRecorded(
        attempt=AttemptRef(run_id="r", attempt=1), times_unix_milliseconds=[LAST_SAMPLE]
    )
    watch.flags(recorded(samples, "telemetry-n1.s"), samples)
    assert [flag.detail for flag in watch.flags(recorded(exited, "run-r"), exited)] == flags
