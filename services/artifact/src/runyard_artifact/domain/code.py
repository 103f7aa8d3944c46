"""Decides the history of one code tree: recorded once for each commit that it was seen at."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from runyard.artifact.v1.events_pb2 import CodeSnapshotRecorded
from runyard.run.v1.types_pb2 import CodeRef
from runyard_contracts.ids import is_sha256
from runyard_core.decider import Decider
from runyard_core.errors import InvalidInput

_TEXT_LENGTH_MAX = 1024


@dataclass(frozen=True, slots=True)
class RecordCodeSnapshot:
    """Record a tree whose manifest and files were all found in the store."""

    code: CodeRef


@dataclass(frozen=True, slots=True)
class TreeCounts:
    """How much a tree is."""

    file_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CodeState:
    """What decisions about one tree need to know."""

    references: frozenset[bytes] = frozenset()
    """The references under which it is recorded, as stored bytes."""
    counts: TreeCounts | None = None
    """None until it is recorded."""


def check_code(code: CodeRef) -> None:
    """Refuse a reference that cannot be to a tree.

    Raises:
        InvalidInput: BAD_SHA256 or BAD_CODE.
    """
    for field in ("tree_sha256", "patch_sha256"):
        value = getattr(code, field)
        if not is_sha256(value) and (value or field == "tree_sha256"):
            problem = f"{value[:80]!r} is not a SHA-256: 64 digits of 0-9 a-f"
            raise _invalid("BAD_SHA256", field, problem)
    for field in ("git_commit", "git_branch", "git_remote_url"):
        if len(getattr(code, field)) > _TEXT_LENGTH_MAX:
            problem = f"longer than {_TEXT_LENGTH_MAX} characters"
            raise _invalid("BAD_CODE", field, problem)


def decide(state: CodeState, command: RecordCodeSnapshot) -> list[Message]:
    """Give the event of a snapshot; none when this very reference is recorded already."""
    if _stored(command.code) in state.references:
        return []
    return [CodeSnapshotRecorded(code=command.code, manifest_sha256=command.code.tree_sha256)]


def evolve(state: CodeState, event: Message) -> CodeState:
    """Give the state after an event."""
    match event:
        case CodeSnapshotRecorded():
            counts = TreeCounts(event.code.file_count, event.code.size_bytes)
            return CodeState(state.references | {_stored(event.code)}, counts)
        case _:
            return state


def _invalid(code: str, field: str, problem: str) -> InvalidInput:
    return InvalidInput(f"code.{field}: {problem}", code=code, field_violations={f"code.{field}": problem})


def _stored(code: CodeRef) -> bytes:
    return code.SerializeToString(deterministic=True)


CODE: Decider[CodeState, RecordCodeSnapshot, Message] = Decider(
    initial=CodeState(), decide=decide, evolve=evolve
)
