from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.descriptor import FieldDescriptor

from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Envelope
from runyard.run.v1.events_pb2 import RunQueued, RunStarted
from runyard_contracts import subjects
from runyard_contracts.envelope import Context, UndecodableEventError, actor_name, parse_actor, unwrap, wrap
from runyard_contracts.ids import deterministic_id, stream_name, uuid7
from runyard_contracts.registry import BY_NAME, UnknownEventTypeError, event_type, event_type_of
from runyard_contracts.upcasting import NoUpcasterError, upcast

ALICE = Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice")
CONTEXT = Context(actor=ALICE, correlation_id="c", source="/scheduler")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_every_event_has_a_past_tense_name_of_ours_and_a_version() -> None:
    assert len(BY_NAME) >= 25
    for name, found in BY_NAME.items():
        assert name.startswith("runyard.")
        assert found.schema_version >= 1
        assert found.lane != 0


def test_the_empty_value_of_every_enum_of_an_event_is_unspecified() -> None:
    for found in BY_NAME.values():
        for field in found.message_class.DESCRIPTOR.fields:
            if field.type == FieldDescriptor.TYPE_ENUM and field.enum_type is not None:
                assert field.enum_type.values_by_number[0].name.endswith("_UNSPECIFIED")


def test_an_event_comes_out_of_its_envelope_as_it_went_in() -> None:
    queued = RunQueued(run_id="r1", project="p", number=3)
    envelope = wrap(queued, stream_name("run", "r1"), CONTEXT, NOON)
    assert (envelope.type, envelope.stream, envelope.schema_version) == ("runyard.run.queued", "run-r1", 1)
    assert unwrap(envelope) == queued


def test_a_payload_that_does_not_parse_names_event_and_position() -> None:
    envelope = Envelope(
        event_id="e1", type="runyard.run.queued", schema_version=1, position=7, data=b"\xff\xff"
    )
    with pytest.raises(UndecodableEventError, match=r"e1.*position 7"):
        unwrap(envelope)


def test_unknown_types_and_messages_that_are_no_events_are_refused() -> None:
    with pytest.raises(UnknownEventTypeError):
        event_type("runyard.run.exploded")
    with pytest.raises(UnknownEventTypeError):
        event_type_of(Envelope())
    assert event_type_of(RunStarted).name == "runyard.run.started"


def test_upcasters_run_in_order_and_a_missing_or_newer_version_is_refused() -> None:
    steps = {("t", 1): lambda data: data + b"2", ("t", 2): lambda data: data + b"3"}
    assert upcast("t", 1, 3, b"1", steps) == b"123"
    with pytest.raises(NoUpcasterError, match="3 to 4"):
        upcast("t", 1, 4, b"1", steps)
    with pytest.raises(NoUpcasterError, match="newer"):
        upcast("t", 2, 1, b"")


def test_time_ordered_ids_sort_and_deterministic_ids_repeat() -> None:
    assert uuid7()[14] == "7"
    assert deterministic_id("n1", "s", 1) == deterministic_id("n1", "s", 1) != deterministic_id("n1", "s", 11)
    assert deterministic_id("a", "bc") != deterministic_id("ab", "c")


@pytest.mark.parametrize("bad", ["", "x y", "a>b", "*", "-x", "x" * 300])
def test_a_stream_id_that_could_widen_a_subject_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="not a stream name"):
        stream_name("run", bad)


def test_one_stream_is_one_literal_subject() -> None:
    assert subjects.event_subject("telemetry-n1.s1") == "runyard.event.telemetry.n1_s1"
    assert subjects.telemetry_subject("n1", "log") == "runyard.telemetry.n1.log"


def test_actors_are_written_and_read_back() -> None:
    assert actor_name(ALICE) == "user:alice"
    assert parse_actor("user:alice") == ALICE
    for bad in ("alice", "user:", "robot:x"):
        with pytest.raises(ValueError, match="not an actor"):
            parse_actor(bad)
