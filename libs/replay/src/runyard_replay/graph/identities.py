"""What a vertex of the graph is called: the same thing always gets the same id, whoever met it first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring
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
    if len(text) <= KEY_CHARACTERS_MAX and "\x00" not in text:
        return text
    clean = text.replace("\x00", "\ufffd")
    if len(clean) <= KEY_CHARACTERS_MAX:
        return clean
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{clean[: KEY_CHARACTERS_MAX - 17]}~{digest}"


def parameters_json(parameters: Iterable[ParameterValue]) -> str:
    """Write parameters as canonical JSON: keys in order, whole numbers without a fraction."""
    return _object({each.name: _value_json(each.value) for each in parameters})


def parameters_id(written: str) -> str:
    """Name parameters by the SHA-256 of their canonical JSON."""
    return sha256_of(written.encode())


def environment_id(environment: Environment) -> str:
    """Name an environment by what makes it: interpreter or image, packages, system; not by where it lay."""
    content = MessageToDict(environment, preserving_proto_field_name=True)
    for name in _NOT_IDENTITY:
        content.pop(name, None)
    packages = [(each.name, each.version) for each in environment.packages]
    content["packages"] = sorted(packages)
    return sha256_of(canonical_json(content).encode())


def external_id(uri: str) -> str:
    """Name a reference outside the yard, without the credentials that a URL may carry."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        # No URL, which a person may have written all the same, with a password in it.
        scheme, separator, rest = uri.partition("?")[0].partition("://")
        authority, slash, path = rest.partition("/")
        return key_text(f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}")
    if parts.scheme in {"http", "https"}:
        host = parts.netloc.rpartition("@")[2]
        uri = urlunsplit((parts.scheme, host, parts.path, "", ""))
    return key_text(uri)


def canonical_json(value: object) -> str:
    """Write JSON in the one form that we hash: keys in order, no spaces, UTF-8."""
    return _CANONICAL.encode(value)


def canonical_texts(texts: Iterable[tuple[str, str]]) -> str:
    """Write an object of texts, each name once, as ``canonical_json`` does in five times the time."""
    return "{" + ",".join([f"{quoted(name)}:{quoted(text)}" for name, text in sorted(texts)]) + "}"


def _object(written: Mapping[str, str]) -> str:
    return "{" + ",".join([f"{quoted(name)}:{written[name]}" for name in sorted(written)]) + "}"


quoted: Callable[[str], str] = encode_basestring
"""Write a text as canonical JSON."""
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _value_json(value: Value) -> str:
    match value.WhichOneof("kind"):
        case "string_value":
            return quoted(value.string_value)
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "number_value" if isfinite(number := value.number_value):
            return str(int(number)) if number.is_integer() else repr(number)
        case _:
            return canonical_json(_whole(MessageToDict(value)))


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
