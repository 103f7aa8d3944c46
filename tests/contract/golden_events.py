"""Makes one stored sample of every event: ``python -m tests.contract.golden_events``.

A sample of a schema version is never changed once it is committed: it stands for what old logs hold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from runyard_contracts.registry import BY_NAME, EventType

FOLDER = Path(__file__).parent / "golden"
_DEPTH_MAX = 4


def sample_path(event: EventType) -> Path:
    """Where the sample of an event at its present version is kept."""
    return FOLDER / f"{event.name}@{event.schema_version}.json"


def main() -> int:
    """Write the samples that are not there yet."""
    for event in BY_NAME.values():
        path = sample_path(event)
        if path.exists():
            continue
        message = filled(event.message_class())
        content = {
            "type": event.name,
            "schema_version": event.schema_version,
            "data_hex": message.SerializeToString(deterministic=True).hex(),
            "json": json_format.MessageToDict(message, preserving_proto_field_name=True),
        }
        path.write_text(json.dumps(content, indent=1) + "\n")
        sys.stdout.write(f"wrote {path.name}\n")
    return 0


def filled(message: Message, depth: int = 0) -> Message:
    """Set every field of a message to a value that is not its default, and differs from field to field."""
    if message.DESCRIPTOR.full_name == "google.protobuf.Value":
        message.string_value = "sample"  # type: ignore[attr-defined]  # known by its name
        return message
    if message.DESCRIPTOR.full_name == "google.protobuf.Struct":
        message["key"] = "sample"  # type: ignore[index]  # known by its name
        return message
    for field in message.DESCRIPTOR.fields:
        assert isinstance(field, FieldDescriptor)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)["key"] = f"{field.name} value"
        elif field.message_type is not None:
            if depth < _DEPTH_MAX:
                own = getattr(message, field.name)
                filled(own.add() if field.is_repeated else own, depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).append(_scalar(field))
        else:
            setattr(message, field.name, _scalar(field))
    return message


def _scalar(field: FieldDescriptor) -> object:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            is_bytes = field.type == FieldDescriptor.TYPE_BYTES
            return field.name.encode() if is_bytes else f"{field.name} text"
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            return field.enum_type.values[-1].number
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return field.number + 0.5
        case _:
            return 100 + field.number


if __name__ == "__main__":
    raise SystemExit(main())
