"""Makes room in a full spool: its oldest samples give way to a note of the gap; lines and points never do.

A sequence stays what it is, because those after it wait for it: in place of the samples it stands for a
``samples.missing`` of the same time, which takes a tenth of the room.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.metric.v1.batches_pb2 import GpuSamplesRecorded, HostSamplesRecorded, SamplesMissing
from runyard_agent.durable_files import sync_folder
from runyard_agent.spool_file import SpoolRecord, decode_frames, encode_frame
from runyard_agent.telemetry_envelope import envelope_bytes
from runyard_contracts.envelope import unwrap
from runyard_contracts.ids import SpoolId

THINNED = "thinned"
"""Kind of a record that was a batch of samples: its body is the note alone, without an envelope."""

_REASON = "thinned: the agent's disk or spool was full"
_FRAME_BYTES = 200_000
_GAIN_MIN = 0.02


def thin_segment(path: Path, keep_through: int) -> int:
    """Replace the samples of a segment after a sequence; gives its bytes, also when nothing was worth it.

    The marks of its frames go: a checkpoint must hold them.

    Raises:
        OSError: there is no room to write it anew; it is as it was.
    """
    content = path.read_bytes()
    records = [record for frame in decode_frames(content) for record in frame.records]
    thinned = [record if record.sequence <= keep_through else _thinned(record) for record in records]
    anew = b"".join(_frames(thinned))
    if len(anew) > len(content) * (1 - _GAIN_MIN):
        return len(content)
    new = path.with_suffix(".thin")
    try:
        with new.open("wb") as file:
            file.write(anew)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return len(anew)


def expanded(record: SpoolRecord, node_id: str, spool_id: SpoolId) -> SpoolRecord:
    """Give a record as it is sent: the same bytes each time."""
    if record.kind != THINNED:
        return record
    missing = SamplesMissing.FromString(record.body)
    missing.node_id = node_id
    missing.reason = _REASON
    ended_at = datetime.fromtimestamp(missing.to_unix_milliseconds / 1000, UTC)
    body = envelope_bytes(missing, node_id, spool_id, record.sequence, ended_at)
    return SpoolRecord(record.sequence, "missing", body)


def _thinned(record: SpoolRecord) -> SpoolRecord:
    if record.kind not in {"gpu", "host"}:
        return record
    batch = unwrap(Envelope.FromString(record.body))
    if not isinstance(batch, HostSamplesRecorded | GpuSamplesRecorded):
        return record
    times = batch.times_unix_milliseconds
    note = SamplesMissing(
        kind=record.kind,
        from_unix_milliseconds=min(times, default=0),
        to_unix_milliseconds=max(times, default=0),
        sample_count=len(times),
    )
    if isinstance(batch, HostSamplesRecorded):
        note.attempt.CopyFrom(batch.attempt)
    return SpoolRecord(record.sequence, THINNED, note.SerializeToString(deterministic=True))


def _frames(records: Sequence[SpoolRecord]) -> Iterator[bytes]:
    start, size = 0, 0
    for index, record in enumerate(records):
        size += len(record.body)
        if size > _FRAME_BYTES or index == len(records) - 1:
            part = records[start : index + 1]
            yield encode_frame(part[0].sequence, [(each.kind, each.body) for each in part], {})
            start, size = index + 1, 0
