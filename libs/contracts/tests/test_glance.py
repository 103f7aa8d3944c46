"""Glances at events: the same fields by the same numbers, or not at all."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.run.v1 import events_pb2, glances_pb2, types_pb2
from runyard.run.v1.events_pb2 import EnvironmentCaptured, RunQueued
from runyard.run.v1.glances_pb2 import EnvironmentCapturedGlance, RunQueuedGlance
from runyard.run.v1.types_pb2 import CodeRef, Environment, Package, ParameterValue, RunSpec
from runyard_contracts.envelope import UndecodableEventError
from runyard_contracts.glance import Glance
from runyard_contracts.registry import UnknownEventTypeError
from runyard_contracts.upcasting import NoUpcasterError

GLANCES = sorted(glances_pb2.DESCRIPTOR.message_types_by_name)


def _envelope(message: Message, *, schema_version: int = 1) -> Envelope:
    data = message.SerializeToString()
    return Envelope(type="runyard.run.queued", schema_version=schema_version, data=data, position=7)


def _seen(name: str) -> Descriptor:
    whole = name.removesuffix("Glance")
    return {**events_pb2.DESCRIPTOR.message_types_by_name, **types_pb2.DESCRIPTOR.message_types_by_name}[
        whole
    ]


@pytest.mark.parametrize("name", GLANCES)
def test_every_field_of_a_glance_is_one_of_the_message_by_name_number_and_wire_type(name: str) -> None:
    for field in glances_pb2.DESCRIPTOR.message_types_by_name[name].fields:
        whole = _seen(name).fields_by_number[field.number]
        assert (field.name, field.is_repeated) == (whole.name, whole.is_repeated)
        if field.type == FieldDescriptor.TYPE_BYTES:
            assert whole.type == FieldDescriptor.TYPE_MESSAGE
        elif (part := field.message_type) is not None and part.name in GLANCES:
            assert _seen(part.name) is whole.message_type
        else:
            kinds = (field.type, field.message_type, field.enum_type)
            assert kinds == (whole.type, whole.message_type, whole.enum_type)


def test_a_part_that_is_not_read_keeps_its_bytes() -> None:
    environment = Environment(os="Debian", packages=[Package(name="torch", version="2.9")])
    captured = EnvironmentCaptured(run_id="r", environment=environment)
    glance = Glance(EnvironmentCaptured, EnvironmentCapturedGlance).at(
        Envelope(schema_version=1, data=captured.SerializeToString())
    )
    assert glance.run_id == "r"
    assert Environment.FromString(glance.environment) == environment


def test_a_glance_at_a_queued_run_finds_its_spec() -> None:
    parameters = [ParameterValue(name="epochs"), ParameterValue(name="rate")]
    spec = RunSpec(step="train", parameters=parameters, code=CodeRef(tree_sha256="ab"))
    glance = Glance(RunQueued, RunQueuedGlance).at(_envelope(RunQueued(run_id="r", number=3, spec=spec)))
    assert (glance.number, glance.spec.step) == (3, "train")
    assert list(map(ParameterValue.FromString, glance.spec.parameters)) == parameters
    assert CodeRef.FromString(glance.spec.code) == spec.code


def test_what_does_not_parse_names_its_event() -> None:
    envelope = Envelope(type="runyard.run.queued", schema_version=1, data=b"\xff", position=7)
    with pytest.raises(UndecodableEventError, match="position 7"):
        Glance(RunQueued, RunQueuedGlance).at(envelope)


def test_a_schema_version_that_no_step_leads_from_is_refused() -> None:
    with pytest.raises(NoUpcasterError):
        Glance(RunQueued, RunQueuedGlance).at(_envelope(RunQueued(), schema_version=99))


def test_only_events_are_glanced_at() -> None:
    with pytest.raises(UnknownEventTypeError):
        Glance(RunSpec, RunSpec)
