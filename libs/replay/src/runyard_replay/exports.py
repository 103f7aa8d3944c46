"""A log as files that anybody can check: JSON lines, one file a lane, and a manifest of their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Corrupt, InvalidInput
from runyard_replay.folding.cloudevents import cloud_event
from runyard_replay.folding.fields import json_content
from runyard_replay.views import readable

FORMAT, CLOUDEVENTS = "runyard-history/1", "cloudevents/1.0"
MANIFEST = "manifest.json"
FILES: Mapping[Lane.ValueType, str] = {
    Lane.LANE_DOMAIN: "domain.jsonl",
    Lane.LANE_TELEMETRY: "telemetry.jsonl",
}
LINE_BYTES_MAX = 8 << 20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What the manifest says of a file."""

    name: str
    lane: str
    event_count: int
    """Positions 1 to this, without a gap."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an export holds."""

    format: str
    log_id: str
    files: tuple[FileEntry, ...]


class LaneWriter:
    """Writes the events of one lane, in position order, and hashes what it writes."""

    def __init__(self, folder: Path, lane: Lane.ValueType, *, cloudevents: bool) -> None:
        """Begin the file of a lane.

        Raises:
            OSError: it is there already, or cannot be written.
        """
        self._lane = lane
        self._cloudevents = cloudevents
        self._name = FILES[lane]
        self._file = (folder / self._name).open("xb")
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self.event_count = 0

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()

    def write(self, event: RecordedEvent) -> None:
        """Add the next event.

        Raises:
            OSError: the disk is full.
        """
        if event.position != self.event_count + 1:
            raise AssertionError(f"position {event.position} after {self.event_count}")
        content = cloud_event(event) if self._cloudevents else _line_of(event)
        line = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._file.write(line)
        self._hash.update(line)
        self._size_bytes += len(line)
        self.event_count += 1

    def entry(self) -> FileEntry:
        """Give what the manifest says of the file."""
        lane = Lane.Name(self._lane)
        return FileEntry(self._name, lane, self.event_count, self._size_bytes, self._hash.hexdigest())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest; without it a folder is no export, so it comes last.

    Raises:
        OSError: it cannot be written.
    """
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        InvalidInput: the folder is no export that can be imported (NOT_AN_EXPORT).
    """
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        files = tuple(map(_entry_of, content["files"]))
        manifest = Manifest(str(content["format"]), str(content["log_id"]), files)
    except OSError as error:
        raise InvalidInput(
            f"{folder} is not an export: {MANIFEST}: {error.strerror}", code="NOT_AN_EXPORT"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(
            f"{folder} is not an export: {MANIFEST} is not the manifest of one ({error})",
            code="NOT_AN_EXPORT",
        ) from None
    known = {(name, Lane.Name(lane)) for lane, name in FILES.items()}
    named = [(entry.name, entry.lane) for entry in files]
    if manifest.format != FORMAT:
        raise InvalidInput(
            f"{folder} holds {manifest.format!r}, which cannot be imported: export it without --cloudevents",
            code="NOT_AN_EXPORT",
        )
    if set(named) != known or len(named) != len(known):
        raise InvalidInput(f"{folder / MANIFEST} names other files than an export's", code="NOT_AN_EXPORT")
    return manifest


def read_events(folder: Path, entry: FileEntry) -> Iterator[Envelope]:
    """Give the events of a file, each checked; the hash is known only behind the last one.

    Raises:
        Corrupt: the file is not what the manifest says (MANIFEST_MISMATCH); the message names the line.
    """
    digest = hashlib.sha256()
    position = 0
    lane = Lane.Value(entry.lane)
    try:
        with (folder / entry.name).open("rb") as file:
            while line := file.readline(LINE_BYTES_MAX):
                position += 1
                digest.update(line)
                yield _envelope_of(line, lane, position, entry)
    except OSError as error:
        raise _mismatch(entry, f"cannot be read: {error.strerror}") from error
    if position != entry.event_count:
        raise _mismatch(entry, f"holds {position} events, the manifest says {entry.event_count}")
    if digest.hexdigest() != entry.sha256:
        raise _mismatch(entry, "has another SHA-256 than the manifest says: something in it was changed")


def _entry_of(found: Mapping[str, object]) -> FileEntry:
    entry = FileEntry(**found)  # type: ignore[arg-type] # what they are is looked at below
    for field in fields(FileEntry):
        value = found[field.name]
        if type(value).__name__ != field.type:
            raise TypeError(f"{field.name} is {value!r}")
    return entry


def _line_of(event: RecordedEvent) -> dict[str, object]:
    """Write the envelope, whose data is exact, and the data for people to read."""
    line: dict[str, object] = {"envelope": MessageToDict(event.envelope, preserving_proto_field_name=True)}
    message = readable(event)
    if message is not None and (content := json_content(message)) is not None:
        line["data"] = content
    return line


def _envelope_of(line: bytes, lane: Lane.ValueType, position: int, entry: FileEntry) -> Envelope:
    try:
        envelope = ParseDict(json.loads(line)["envelope"], Envelope())
    except (ValueError, KeyError, TypeError, RecursionError, ParseError) as error:
        # Further lines list all that it might have been.
        what = str(error).splitlines()[:1]
        raise _mismatch(entry, f"line {position} is not an event: {''.join(what)}") from None
    if (envelope.lane, envelope.position) != (lane, position):
        raise _mismatch(entry, f"line {position} has the event of position {envelope.position}")
    return envelope


def _mismatch(entry: FileEntry, problem: str) -> Corrupt:
    return Corrupt(f"{entry.name} {problem}", code="MANIFEST_MISMATCH", metadata={"file": entry.name})
