"""Which telemetry batches may be appended now: those that continue their spool without a hole.

A spool is an agent's outbox; its records are numbered from 1 and become the versions of one stream.
JetStream delivers at least once and, after a failure, in any order. So a batch is a duplicate (at or below
the committed mark), the continuation, or it waits for the one before it. The order of delivery changes
nothing: the same batches end up in the log in the same order within their stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Generic, TypeVar

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.ids import StreamName, deterministic_id, stream_category, stream_id
from runyard_contracts.subjects import telemetry_subject

TELEMETRY_CATEGORY = "telemetry"

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class SpoolKey:
    """Names the spool of a node."""

    node_id: str
    spool_id: str

    @property
    def stream(self) -> StreamName:
        """The stream that the spool's records become."""
        return StreamName(f"{TELEMETRY_CATEGORY}-{self.node_id}.{self.spool_id}")


@dataclass(frozen=True, slots=True)
class Spool(Generic[Batch]):
    """What is known of a spool: the log's mark, and batches that came before their predecessor."""

    committed: int
    """Sequence of the last batch that the log has; 0 when it has none."""
    waiting: dict[int, Batch] = field(default_factory=dict)
    """Sequence -> batch, all above the mark; those of a run stay until it is committed."""


@dataclass(frozen=True, slots=True)
class Taken(Generic[Batch]):
    """What to do with delivered batches of one spool."""

    spool: Spool[Batch]
    run: list[Batch]
    """Batches committed + 1, committed + 2, ... in order: append them."""
    duplicates: list[Batch]
    """The log has them, or they came twice: acknowledge, or leave to the one that is kept."""


class RefusedBatchError(ValueError):
    """A message that can never become an event: by another node, not telemetry, or not what its id says."""


def spool_of(envelope: Envelope, subject: str) -> SpoolKey:
    """Say which spool a delivered envelope belongs to.

    The sender's credential is limited to subjects of its node, so the subject is what proves who sent it.

    Raises:
        RefusedBatchError: the envelope claims another node than its subject, or is not a telemetry batch.
    """
    node_id, separator, spool_id = stream_id(envelope.stream).partition(".")
    if stream_category(envelope.stream) != TELEMETRY_CATEGORY or not separator or not node_id or not spool_id:
        raise RefusedBatchError(f"{envelope.stream!r} is not a telemetry stream")
    kind = subject.rpartition(".")[2]
    if subject != telemetry_subject(node_id, kind) or envelope.source != f"/agents/{node_id}":
        raise RefusedBatchError(
            f"came on {subject!r} but claims node {node_id!r}, source {envelope.source!r}"
        )
    if envelope.lane != Lane.LANE_TELEMETRY:
        raise RefusedBatchError(f"{envelope.type} is not of the telemetry lane")
    if envelope.stream_version < 1:
        raise RefusedBatchError(f"spool sequence is {envelope.stream_version}, want 1 or more")
    if envelope.event_id != deterministic_id(node_id, spool_id, envelope.stream_version):
        raise RefusedBatchError(f"event id {envelope.event_id} is not that of its node, spool and sequence")
    return SpoolKey(node_id, spool_id)


def take(
    spool: Spool[Batch], delivered: Iterable[tuple[int, Batch]], *, run_length_max: int, waiting_max: int
) -> Taken[Batch]:
    """Sort delivered batches, by their sequence, into those to append, to acknowledge and to wait.

    Args:
        spool: what is known of the spool.
        delivered: sequence and batch, in any order, with repetitions.
        run_length_max: most batches of one append.
        waiting_max: most batches to keep waiting; the highest are forgotten, and delivered again later.
    """
    waiting = dict(spool.waiting)
    duplicates: list[Batch] = []
    for sequence, batch in delivered:
        if sequence <= spool.committed:
            duplicates.append(batch)
        else:
            # Of two deliveries of one batch the newer is kept: the older's acknowledgement is spent.
            waiting[sequence] = batch
    run: list[Batch] = []
    while len(run) < run_length_max and (sequence := spool.committed + len(run) + 1) in waiting:
        run.append(waiting[sequence])
    for sequence in sorted(waiting)[len(run) + waiting_max :]:
        del waiting[sequence]
    return Taken(replace(spool, waiting=waiting), run, duplicates)


def moved(spool: Spool[Batch], mark: int) -> tuple[Spool[Batch], list[Batch]]:
    """Move the mark to what the log has; gives the batches that need not wait any more, in order."""
    done = [batch for each, batch in sorted(spool.waiting.items()) if each <= mark]
    waiting = {each: batch for each, batch in spool.waiting.items() if each > mark}
    return Spool(committed=mark, waiting=waiting), done


def without(spool: Spool[Batch], sequence: int) -> Spool[Batch]:
    """Forget a waiting batch that can never be appended."""
    waiting = {each: batch for each, batch in spool.waiting.items() if each != sequence}
    return replace(spool, waiting=waiting)


def within_bytes(spool: Spool[Batch], bytes_max: int, size_of: Callable[[Batch], int]) -> Spool[Batch]:
    """Keep of the waiting batches the nearest, as many as have so many bytes together."""
    sequences = sorted(spool.waiting)
    sizes = accumulate(size_of(spool.waiting[each]) for each in sequences)
    kept = [each for each, size in zip(sequences, sizes, strict=True) if size <= bytes_max]
    return replace(spool, waiting={each: spool.waiting[each] for each in kept})
