"""From events about names to the rows of the registry."""

from __future__ import annotations

from datetime import UTC, datetime

from runyard.artifact.v1.registry_events_pb2 import ArtifactTagged
from runyard_artifact.projections.registry import RegistryProjection
from runyard_artifact.tables import LABELS
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_testkit.projecting import fold


def test_a_tag_that_no_table_can_hold_is_known_when_it_comes_again() -> None:
    context = Context(parse_actor("user:alice"), "c", source="/artifact")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    events = []
    for position, tags in enumerate((["a\0"], ["a\0", "b"]), start=1):
        message = ArtifactTagged(sha256="5d", tags=tags)
        envelope = wrap(message, StreamName("artifact-5d"), context, now)
        envelope.position = position
        events.append(RecordedEvent(envelope, message))
    rows = fold(RegistryProjection(), events).rows(LABELS)
    assert [row.tags for row in rows] == [("a\ufffd",), ("a\ufffd", "b")]
