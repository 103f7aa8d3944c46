"""What a vertex of the graph is called: the same thing always gets the same id, whoever met it first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from math import isfinite
from urllib.parse import urlsplit, urlunsplit

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Value

from runyard.run.v1.types_pb2 import Environment, ParameterValue
from runyard_contracts.ids import sha256_of

KEY_CHARACTERS_MAX = 200
"""Keys are indexed, and an index row of PostgreSQL holds 2.7 KB."""

_NOT_IDENTITY = ("cached", "interpreter_path", "variables")
"""Of an environment: what differs between two runs in the same one."""


def key_text(text: str) -> str:
    """Give a text that can be a key; unchanged for every usual one.

    NUL, which PostgreSQL cannot store, becomes U+FFFD. A longer text keeps its start and gets a digest.
    """
    clean = text.replace("\x00", "\ufffd")
    if len(clean) <= KEY_CHARACTERS_MAX:
        return clean
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{clean[: KEY_CHARACTERS_MAX - 17]}~{digest}"


def parameters_json(parameters: Iterable[ParameterValue]) -> str:
    """Write parameters as canonical JSON: keys in order, whole numbers without a fraction."""
    values = {each.name: _value(each.value) for each in parameters}
    return canonical_json(values)


def parameters_id(written: str) -> str:
    """Name parameters by the SHA-256 of their canonical JSON."""
    return sha256_of(written.encode())


def environment_id(environment: Environment) -> str:
    """Name an environment by what makes it: interpreter or image, packages, system; not by where it lay."""
    return _environment_id(environment.SerializeToString(deterministic=True))


@lru_cache(maxsize=256)
def _environment_id(serialised: bytes) -> str:
    """Many runs share few environments, and naming one takes a hundred times as long as looking it up."""
    environment = Environment.FromString(serialised)
    content = MessageToDict(environment, preserving_proto_field_name=True)
    for name in _NOT_IDENTITY:
        content.pop(name, None)
    packages = [(each.name, each.version) for each in environment.packages]
    content["packages"] = sorted(packages)
    return sha256_of(canonical_json(content).encode())


def external_id(uri: str) -> str:
    """Name a reference outside the yard, without the credentials that a URL may carry."""
    parts = urlsplit(uri)
    if parts.scheme in {"http", "https"}:
        host = parts.netloc.rpartition("@")[2]
        uri = urlunsplit((parts.scheme, host, parts.path, "", ""))
    return key_text(uri)


def canonical_json(value: object) -> str:
    """Write JSON in the one form that we hash: keys in order, no spaces, UTF-8."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _value(value: Value) -> object:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "number_value" if isfinite(value.number_value):
            return _whole(value.number_value)
        case _:
            return _whole(MessageToDict(value))


def _whole(value: object) -> object:
    """Protobuf keeps every number as a float; 5.0 is how it keeps 5."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(each) for each in value]
        case dict():
            return {key: _whole(each) for key, each in value.items()}
        case _:
            return value
