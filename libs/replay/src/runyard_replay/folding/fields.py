"""Messages as flat fields, and what differs between two of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.json_format import Error as JsonError
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from runyard.history.v1.history_service_pb2 import FieldChange

_NOISE = frozenset({"position", "waited_milliseconds"})
"""Fields that differ at every other moment, and so say nothing."""
_KEYS: Mapping[str, str] = {
    "aliases": "alias",
    "attempts": "number",
    "counts": "state",
    "datasets": "name",
    "gpus": "uuid",
    "inputs": "name",
    "models": "name",
    "nodes": "node_id",
    "outputs": "path",
    "packages": "name",
    "parameters": "name",
    "prices": "price_id",
    "reservations": "lease_id",
    "runs": "run_id",
    "secrets": "name",
    "versions": "version",
    "waiting": "run_id",
}
"""List -> the field that tells its items apart wherever they stand; other lists go by index."""


def flat(message: Message | None) -> Mapping[str, str]:
    """Give every set field by its path, as JSON: "attempts[1].cause.code" -> '"CAUSE_CODE_OOM_GPU"'."""
    if message is None:
        return {}
    content = json_content(message)
    return dict(_leaves("", content)) if content else {}


def json_content(message: Message) -> dict[str, Any] | None:
    """Give a message as JSON has it; None where JSON has no words: for a NaN, or for what is no time."""
    try:
        return MessageToDict(message, preserving_proto_field_name=True)
    except (ValueError, JsonError):
        return None


def changes_between(before: Mapping[str, str], after: Mapping[str, str]) -> list[FieldChange]:
    """Give the fields that differ, in the order of the later message, then what it has no more."""
    paths = [*after, *(path for path in before if path not in after)]
    return [
        FieldChange(path=path, before_json=before.get(path, ""), after_json=after.get(path, ""))
        for path in paths
        if before.get(path) != after.get(path) and path.rpartition(".")[2] not in _NOISE
    ]


def is_within(path: str, field: str) -> bool:
    """Say whether a path is a field or below it: "attempts[1].cause" is within "attempts"."""
    return not field or path == field or path.startswith((f"{field}.", f"{field}["))


def has_field(message_class: type[Message], field: str) -> bool:
    """Say whether a message can have a field: "cause.code", "attempts", "attempts[1].cause"."""
    descriptor = message_class.DESCRIPTOR
    parts = field.split(".")
    for index, part in enumerate(parts):
        name, bracket, number = part.partition("[")
        found = descriptor.fields_by_name.get(name)
        if found is None or (bracket and not number.removesuffix("]").isdecimal()):
            return False
        if index + 1 < len(parts):
            if found.message_type is None:
                return False
            descriptor = found.message_type
            if descriptor.full_name.startswith("google.protobuf."):
                return True
    return True


def _leaves(path: str, value: object) -> Iterator[tuple[str, str]]:
    match value:
        case dict() if value:
            for name, below in value.items():
                yield from _leaves(f"{path}.{name}" if path else str(name), below)
        case list() if value:
            key = _KEYS.get(path.rpartition(".")[2], "")
            for index, below in enumerate(value):
                name = below.get(key, index) if isinstance(below, dict) else index
                yield from _leaves(f"{path}[{name}]", below)
        case _:
            yield path, json.dumps(value, ensure_ascii=False)
