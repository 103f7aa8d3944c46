"""A file that came from very many places, as of a moment."""

from __future__ import annotations

import pytest
from google.protobuf.struct_pb2 import Struct

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.registry_events_pb2 import ArtifactPropertiesSet, ArtifactTagged
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.envelope_pb2 import Envelope
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import (
    DiffStatesRequest,
    GetStateAsOfRequest,
    Subject,
    SubjectKind,
)
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.folding import files
from runyard_replay.folding.files import FileFold
from runyard_replay.reading.comparing import diff_states
from runyard_replay.reading.states import state_as_of

from .yard import MODEL, Yard

FILE = Subject(kind=SubjectKind.SUBJECT_KIND_FILE, name=MODEL)


def _written(number: int) -> ArtifactWritten:
    return ArtifactWritten(
        sha256=MODEL, size_bytes=7, origin=Origin(run_id=f"r{number}", path=f"{number}.pt")
    )


async def test_a_file_of_many_places_shows_the_newest_and_is_compared_by_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "ORIGINS_SHOWN_MAX", 3)
    yard = Yard()
    for number in (1, 2, 3, 4, 1):
        await yard.write("artifact", MODEL, _written(number))
    file = (await state_as_of(yard.log, GetStateAsOfRequest(subject=FILE), yard.clock)).file
    assert [told.origin.path for told in file.origins] == ["3.pt", "4.pt", "1.pt"]
    span = DiffStatesRequest(begin=AsOf(position=1), end=AsOf(position=4), subject=FILE)
    changes = (await diff_states(yard.log, span, yard.clock)).changes
    named = {change.path for change in changes if change.path.endswith(".path")}
    assert named == {f"origins[{index}].origin.path" for index in (1, 2, 3)}


def test_what_was_said_of_a_file_is_kept_and_nothing_of_before_its_bytes_were_stored() -> None:
    early, first, second = ArtifactTagged(sha256=MODEL, tags=["early"]), Struct(), Struct()
    first.update({"a": 1, "b": 1})
    second.update({"b": 2})
    fold = FileFold()
    fold.apply(RecordedEvent(Envelope(), early))
    assert fold.file() is None
    said = (
        ArtifactTagged(sha256=MODEL, tags=["x", "y"]),
        ArtifactPropertiesSet(sha256=MODEL, properties=first),
        ArtifactTagged(sha256=MODEL, tags=["y", "z"]),
        ArtifactPropertiesSet(sha256=MODEL, properties=second),
    )
    for message in (_written(1), *said):
        fold.apply(RecordedEvent(Envelope(), message))
    file = fold.file()
    assert file is not None
    assert (list(file.tags), dict(file.properties.items())) == (["x", "y", "z"], {"a": 1, "b": 2})


def test_a_place_takes_as_long_as_the_one_before() -> None:
    # Where each took a copy of those before, twenty thousand took minutes.
    fold = FileFold()
    for number in range(20_000):
        fold.apply(RecordedEvent(Envelope(position=number + 1), _written(number)))
    file = fold.file()
    assert file is not None
    assert (len(file.origins), file.name, file.position) == (20_000, "19999.pt", 20_000)
