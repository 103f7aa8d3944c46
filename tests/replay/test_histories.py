"""The recorded incidents are whole, and every event in them says truly why it happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from runyard.event.v1.envelope_pb2 import ActorKind, Envelope, Lane
from runyard_replay.exports import FILES, read_events, read_manifest
from tests.replay.record import INCIDENTS
from tests.replay.runbooks import HISTORIES

SIZE_BYTES_MAX = 2_500_000
"""Two hours of GPU samples are two megabytes."""


def events_of(history: Path, lane: Lane.ValueType) -> list[Envelope]:
    entry = next(each for each in read_manifest(history).files if each.name == FILES[lane])
    return list(read_events(history, entry))


@pytest.fixture(params=sorted(INCIDENTS))
def history(request: pytest.FixtureRequest) -> Path:
    return HISTORIES / str(request.param)


def test_a_history_is_what_its_manifest_says_and_small(history: Path) -> None:
    manifest = read_manifest(history)
    assert [len(list(read_events(history, entry))) for entry in manifest.files] == [
        entry.event_count for entry in manifest.files
    ]
    assert all(entry.event_count for entry in manifest.files)
    assert sum(path.stat().st_size for path in history.iterdir()) < SIZE_BYTES_MAX


def test_every_cause_is_an_earlier_event_and_every_chain_ends_at_a_command_and_an_actor(
    history: Path,
) -> None:
    known: dict[str, Envelope] = {}
    root_of: dict[str, Envelope] = {}
    for envelope in events_of(history, Lane.LANE_DOMAIN):
        assert not envelope.causation_id or envelope.causation_id in known, envelope.type
        root = root_of.get(envelope.causation_id, envelope)
        known[envelope.event_id], root_of[envelope.event_id] = envelope, root
        assert root.command_id, f"{envelope.type} at {envelope.position}"
        assert root.actor.kind != ActorKind.ACTOR_KIND_UNSPECIFIED
        assert root.actor.id


CAUSES = {
    "environment.captured": {"run.lease_granted"},
    "node.gpus_released": {"run.attempt_exited", "run.attempt_failed"},
    "node.gpus_reserved": {"run.lease_granted"},
    "run.attempt_exited": {"run.started"},
    "run.attempt_failed": {"run.lease_expired"},
    "run.finished": {"run.attempt_exited"},
    "run.lease_expired": {"run.unreachable"},
    "run.lease_granted": {"run.queued", "run.requeued"},
    "run.queued": {""},
    "run.reachable_again": {"node.attached"},
    "run.requeued": {"run.attempt_failed"},
    "run.stale_report_received": {"run.lease_granted"},
    "run.started": {"run.lease_granted"},
    "run.unreachable": {"node.detached"},
    "artifact.upload_begun": {"run.started", ""},
    "artifact.written": {"artifact.upload_begun", "run.started", ""},
}
"""Type -> the types that it may follow from; "" for what only a command makes."""


def test_each_type_of_event_follows_from_what_it_can_follow_from(history: Path) -> None:
    events = events_of(history, Lane.LANE_DOMAIN)
    types = {envelope.event_id: envelope.type.removeprefix("runyard.") for envelope in events}
    for envelope in events:
        name = types[envelope.event_id]
        if name in CAUSES:
            assert types.get(envelope.causation_id, "") in CAUSES[name], f"{name} at {envelope.position}"


def test_telemetry_names_its_agent_and_what_it_belongs_to(history: Path) -> None:
    for envelope in events_of(history, Lane.LANE_TELEMETRY):
        assert envelope.actor.kind == ActorKind.ACTOR_KIND_AGENT
        assert envelope.correlation_id
