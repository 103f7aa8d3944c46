"""Samples that were not taken or not kept, counted until they can be told of."""

from __future__ import annotations

from runyard.metric.v1.batches_pb2 import SamplesMissing


def count_missing(missing: SamplesMissing, kind: str, now_unix_milliseconds: int, reason: str) -> None:
    """Count one more; ``reason`` of the last one stays."""
    missing.kind = kind
    missing.from_unix_milliseconds = missing.from_unix_milliseconds or now_unix_milliseconds
    missing.to_unix_milliseconds = now_unix_milliseconds
    missing.sample_count += 1
    missing.reason = reason
