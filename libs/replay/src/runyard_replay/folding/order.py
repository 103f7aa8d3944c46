"""The one order of a timeline over both lanes."""

from __future__ import annotations

from runyard.event.v1.envelope_pb2 import Envelope, Lane

Place = tuple[int, int, int]
"""Sorts a timeline: after_position, lane, position in the lane."""


def place_of(envelope: Envelope) -> Place:
    """Give the place of an event: telemetry stands behind the domain event that was newest when it came."""
    if envelope.lane == Lane.LANE_TELEMETRY:
        return (envelope.after_position, Lane.LANE_TELEMETRY, envelope.position)
    return (envelope.position, Lane.LANE_DOMAIN, envelope.position)


def recording_delay_milliseconds(envelope: Envelope) -> int:
    """Give how long after it happened an event was recorded; below 0 when its producer's clock is ahead."""
    occurred, recorded = envelope.occurred_at, envelope.recorded_at
    nanoseconds = (recorded.seconds - occurred.seconds) * 1_000_000_000 + recorded.nanos - occurred.nanos
    return nanoseconds // 1_000_000
