"""Finds the fields of a message that may name a person, as the option ``personal`` declares them."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, MutableSequence
from functools import cache
from typing import NamedTuple, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from runyard.event.v1 import personal_pb2
from runyard.event.v1.personal_pb2 import Personal

Rewrite = Callable[[Personal.ValueType, str], str]
"""Gives what shall stand in the place of a text."""


class _Field(NamedTuple):
    name: str
    kind: Personal.ValueType
    """``PERSONAL_UNSPECIFIED`` for a message that holds such fields further down."""
    is_repeated: bool
    is_map: bool


def may_name_persons(message: Message | type[Message]) -> bool:
    """Say whether a message of this type has such a field, itself or further down."""
    return bool(_fields(cast("Descriptor", message.DESCRIPTOR)))


def rewrite(message: Message, rewritten: Rewrite) -> None:
    """Go through every text of a message that may name a person, and put something else in its place."""
    for name, kind, is_repeated, is_map in _fields(cast("Descriptor", message.DESCRIPTOR)):
        if kind == Personal.PERSONAL_UNSPECIFIED:
            if is_repeated:
                for each in getattr(message, name):
                    rewrite(each, rewritten)
            elif message.HasField(name):
                rewrite(getattr(message, name), rewritten)
        elif is_map:
            _rewrite_map(getattr(message, name), kind, rewritten)
        elif is_repeated:
            _rewrite_list(getattr(message, name), kind, rewritten)
        else:
            text = getattr(message, name)
            changed = rewritten(kind, text) if text else text
            if changed != text:
                setattr(message, name, changed)


def _rewrite_map(texts: MutableMapping[str, str], kind: Personal.ValueType, rewritten: Rewrite) -> None:
    for key, text in list(texts.items()):
        changed = rewritten(kind, text)
        if changed != text:
            texts[key] = changed


def _rewrite_list(texts: MutableSequence[str], kind: Personal.ValueType, rewritten: Rewrite) -> None:
    for index, text in enumerate(texts):
        changed = rewritten(kind, text)
        if changed != text:
            texts[index] = changed


@cache
def _fields(descriptor: Descriptor) -> tuple[_Field, ...]:
    found = []
    for field in cast("list[FieldDescriptor]", descriptor.fields):
        kind = field.GetOptions().Extensions[personal_pb2.personal]
        below = field.message_type
        is_map = below is not None and below.GetOptions().map_entry
        if kind or (below is not None and not is_map and _reaches(below, frozenset())):
            found.append(_Field(field.name, kind, field.is_repeated, is_map))
    return tuple(found)


def _reaches(descriptor: Descriptor, above: frozenset[str]) -> bool:
    """Say whether such a field can be reached; ``above`` leads here, as some messages hold their like."""
    if descriptor.full_name in above:
        return False
    here = above | {descriptor.full_name}
    return any(
        field.GetOptions().Extensions[personal_pb2.personal]
        or (field.message_type is not None and _reaches(field.message_type, here))
        for field in descriptor.fields
    )
