"""Finds the fields of a message that may name a person, as the option ``personal`` declares them."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, MutableSequence
from typing import NamedTuple, TypeAlias, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from runyard.event.v1 import personal_pb2
from runyard.event.v1.personal_pb2 import Personal

Rewrite: TypeAlias = Callable[[Personal.ValueType, str], str]
"""Gives what shall stand in the place of a text."""


class _Field(NamedTuple):
    name: str
    kind: Personal.ValueType
    """``PERSONAL_UNSPECIFIED`` for a message that holds such fields further down."""
    is_repeated: bool
    is_map: bool
    below: list[_Field]
    """The fields of that message: a list, as some messages hold their like."""


def may_name_persons(message: Message | type[Message]) -> bool:
    """Say whether a message of this type has such a field, itself or further down."""
    return bool(_fields(cast("Descriptor", message.DESCRIPTOR)))


def rewrite(message: Message, rewritten: Rewrite) -> None:
    """Go through every text of a message that may name a person, and put something else in its place."""
    _rewrite(message, _fields(cast("Descriptor", message.DESCRIPTOR)), rewritten)


def _rewrite(message: Message, fields: list[_Field], rewritten: Rewrite) -> None:
    for name, kind, is_repeated, is_map, below in fields:
        if below:
            if is_repeated:
                for each in getattr(message, name):
                    _rewrite(each, below, rewritten)
            elif message.HasField(name):
                _rewrite(getattr(message, name), below, rewritten)
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


_known: dict[str, list[_Field]] = {}


def _fields(descriptor: Descriptor) -> list[_Field]:
    known = _known.get(descriptor.full_name)
    if known is not None:
        return known
    found = _known[descriptor.full_name] = []
    for field in cast("list[FieldDescriptor]", descriptor.fields):
        kind = field.GetOptions().Extensions[personal_pb2.personal]
        below = field.message_type
        is_map = below is not None and below.GetOptions().map_entry
        if kind:
            found.append(_Field(field.name, kind, field.is_repeated, is_map, []))
        elif below is not None and not is_map and _reaches(below, frozenset()):
            found.append(_Field(field.name, kind, field.is_repeated, is_map, _fields(below)))
    return found


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
