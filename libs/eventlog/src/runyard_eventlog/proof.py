"""The proof that one event is in a signed segment: a small JSON file that needs no log to be checked."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_core.errors import Corrupt
from runyard_core.merkle import HASH_BYTES, inclusion_path, leaf_hash, merkle_root, root_of_path
from runyard_eventlog.manifest import FORMAT as MANIFEST_FORMAT
from runyard_eventlog.manifest import LANE_NAMES, LANES, Manifest
from runyard_eventlog.signing import PublicKey
from runyard_eventlog.stored_event import StoredEvent, canonical_bytes, parse_canonical

FORMAT = "runyard-inclusion-proof-v1"
_PATH_MAX = 64


@dataclass(frozen=True, slots=True)
class ProvenEvent:
    """What a proof proves: this event stood at this place when the segment was signed."""

    event: StoredEvent
    manifest: Manifest
    key_id: str


def make_proof(manifest: Manifest, leaves: Sequence[bytes], event: StoredEvent) -> bytes:
    """Write the proof of one event of a segment.

    Raises:
        Corrupt: the event is not the one that was sealed, or the leaves are not the segment's.
    """
    index = event.position - manifest.first_position
    content = canonical_bytes(event, LANES[manifest.lane])
    if merkle_root(leaves).hex() != manifest.root:
        raise Corrupt(f"the leaf hashes of {manifest.name} are not those sealed", code="BAD_SEGMENT_FILE")
    if leaves[index] != leaf_hash(content):
        raise Corrupt(
            f"event {event.event_id} at position {event.position} is not the one that was sealed",
            code="EVENT_NOT_SEALED",
        )
    proof = {
        "format": FORMAT,
        "event_id": str(event.event_id),
        "lane": manifest.lane,
        "position": event.position,
        "canonical_base64": base64.b64encode(content).decode(),
        "path": [step.hex() for step in inclusion_path(leaves, index)],
        "segment": json.loads(manifest.to_json()),
    }
    return (json.dumps(proof, indent=1) + "\n").encode()


def check_proof(proof: bytes, key: PublicKey) -> ProvenEvent:
    """Check a proof with the public key alone.

    Raises:
        Corrupt: it proves nothing; the message says what does not hold.
    """
    found = _parsed(proof)
    manifest = Manifest.of_mapping(found.get("segment"))
    content, path = _content(found), _path(found)
    lane, event = parse_canonical(content)
    if (LANE_NAMES[lane], event.position, str(event.event_id)) != (
        found.get("lane"),
        found.get("position"),
        found.get("event_id"),
    ):
        raise _invalid("it names another event than it holds")
    if manifest.lane != LANE_NAMES[lane]:
        raise _invalid(f"its segment is of lane {manifest.lane}")
    count = manifest.last_position - manifest.first_position + 1
    if manifest.event_count != count:
        raise _invalid(f"its segment counts {manifest.event_count} events at {count} positions")
    try:
        root = root_of_path(leaf_hash(content), event.position - manifest.first_position, count, path)
    except ValueError as error:
        raise _invalid(str(error)) from error
    if root.hex() != manifest.root:
        raise _invalid("its path does not lead from the event to the segment's root")
    if manifest.computed_segment_root().hex() != manifest.segment_root:
        raise _invalid("its segment root is not over the segment that it shows")
    if manifest.key_id != key.key_id:
        raise _invalid(f"it is signed by key {manifest.key_id}, not by {key.key_id}")
    if not key.has_signed(bytes.fromhex(manifest.segment_root), bytes.fromhex(manifest.signature)):
        raise _invalid(f"the signature is not of key {key.key_id}")
    _check_payload(event)
    return ProvenEvent(event, manifest, key.key_id)


def _parsed(proof: bytes) -> dict[str, object]:
    try:
        found = json.loads(proof)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"the proof is not JSON: {error}", code="BAD_PROOF") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise Corrupt(
            f"not a proof: its format is not {FORMAT!r} (segments: {MANIFEST_FORMAT!r})", code="BAD_PROOF"
        )
    return found


def _content(found: dict[str, object]) -> bytes:
    try:
        return base64.b64decode(str(found.get("canonical_base64")), validate=True)
    except binascii.Error as error:
        raise _invalid("the event's bytes are not base64") from error


def _path(found: dict[str, object]) -> list[bytes]:
    steps = found.get("path")
    if not isinstance(steps, list) or len(steps) > _PATH_MAX:
        raise _invalid("it has no path")
    try:
        path = [bytes.fromhex(step) for step in steps]
    except (TypeError, ValueError) as error:
        raise _invalid("a step of its path is not hexadecimal") from error
    if any(len(step) != HASH_BYTES for step in path):
        raise _invalid("a step of its path is not a SHA-256")
    return path


def _check_payload(event: StoredEvent) -> None:
    """The columns repeat what the stored envelope says; a log in which they differ was not made by append."""
    try:
        envelope = Envelope.FromString(event.payload)
    except DecodeError as error:
        raise _invalid("the event's payload is no envelope") from error
    if (envelope.event_id, envelope.stream, envelope.type) != (str(event.event_id), event.stream, event.type):
        raise _invalid("the event's columns are not those of its stored envelope")


def _invalid(what: str) -> Corrupt:
    return Corrupt(f"the proof does not hold: {what}", code="PROOF_INVALID")
