"""What a run says of its outputs: read, decided, and never the end of the outputs themselves."""

from __future__ import annotations

import re

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.registry_events_pb2 import (
    ArtifactAliasMoved,
    ArtifactPropertiesSet,
    ArtifactTagged,
    DatasetAliasMoved,
    DatasetVersionCreated,
    ModelVersionRegistered,
)
from runyard.artifact.v1.registry_types_pb2 import DescribedOutput, VersionFile
from runyard.artifact.v1.types_pb2 import Origin
from runyard.run.v1.types_pb2 import Input, InputFile
from runyard_artifact.domain.dataset import DATASET, CreateVersion, files_of
from runyard_artifact.domain.description import WantedDataset, read_description
from runyard_artifact.domain.labels import ALIAS, LABELS, LabelFile, MoveAlias
from runyard_artifact.domain.model import MODEL, RegisterVersion, version_of
from runyard_artifact.domain.naming import check_label, parse_dataset_version, parse_model
from runyard_artifact.domain.version_size import BYTES_MAX
from runyard_core.errors import InvalidInput, NotFound, Rejected

ORIGIN = Origin(run_id="run-1", attempt=1, project="vision")
A, B = "a" * 64, "b" * 64


def described(path: str, metadata: object, sha256: str = A) -> DescribedOutput:
    return DescribedOutput(path=path, sha256=sha256, size_bytes=1, metadata=ParseDict(metadata, Struct()))  # type: ignore[arg-type]


def file(path: str, sha256: str = A) -> VersionFile:
    return VersionFile(path=path, sha256=sha256, size_bytes=1)


def version(name: str, *files: VersionFile, aliases: tuple[str, ...] = ()) -> CreateVersion:
    return CreateVersion("vision", "images", name, files, "", aliases, ORIGIN)


def test_tags_alias_and_properties_are_told_apart() -> None:
    metadata = {"valohai.tags": ["good", "small"], "valohai.alias": "best", "accuracy": 0.5, "of": {"a": [1]}}
    description = read_description([described("model.pt", metadata)])
    [(output, labels)] = description.labels
    assert (output.path, labels.tags, labels.alias) == ("model.pt", ("good", "small"), "best")
    assert sorted(labels.properties.fields) == ["accuracy", "of"]
    assert description.problems == []


def test_outputs_of_one_version_are_gathered() -> None:
    long = {"uri": "dataset://images/v1", "targeting_aliases": ["newest"], "packaging": True}
    description = read_description(
        [
            described("a.jpg", {"valohai.dataset-versions": ["dataset://images/v1", "dataset://all/v9"]}),
            described("x/b.jpg", {"valohai.dataset-versions": [long]}, B),
        ]
    )
    assert sorted(description.datasets) == [("all", "v9"), ("images", "v1")]
    images = description.datasets["images", "v1"]
    assert [(path, found.sha256) for path, found in images.files.items()] == [("a.jpg", A), ("x/b.jpg", B)]
    assert images.aliases == ["newest"]


def test_a_version_made_from_another_takes_its_files_but_those_left_out() -> None:
    entry = {"uri": "dataset://images/v2", "from": "dataset://images/v1", "exclude": ["old.jpg", "tmp/*"]}
    description = read_description([described("a.jpg", {"valohai.dataset-versions": [entry]}, B)])
    wanted = description.datasets["images", "v2"]
    base = [file("a.jpg"), file("old.jpg"), file("tmp/x"), file("kept.jpg")]
    assert {found.path: found.sha256 for found in wanted.all_files(base)} == {"a.jpg": B, "kept.jpg": A}
    wanted.starts_fresh = True
    assert [found.path for found in wanted.all_files(base)] == ["a.jpg"]


def test_a_version_comes_after_the_one_of_the_same_run_that_it_begins_with() -> None:
    def based(version: str, base: str) -> dict[str, object]:
        return {"uri": f"dataset://images/{version}", "from": f"dataset://images/{base}"}

    entries = [based("v3", "v2"), based("v2", "v1"), "dataset://images/v1", based("x", "y"), based("y", "x")]
    description = read_description([described("a.jpg", {"valohai.dataset-versions": entries})])

    ordered = [wanted.version for wanted in description.datasets_in_order()]
    assert ordered[:3] == ["v1", "v2", "v3"]
    # What leads in a circle is refused where it is made.
    assert sorted(ordered[3:]) == ["x", "y"]


def test_models_are_read_in_both_forms() -> None:
    entry = {"model_uri": "model://resnet/", "model_version_tags": ["x"], "model_release_note": "note"}
    description = read_description(
        [
            described("model.pt", {"valohai.model-versions": [entry]}),
            described("labels.txt", {"valohai.model-versions": ["model://resnet/"]}, B),
        ]
    )
    wanted = description.models["resnet"]
    assert (sorted(wanted.files), wanted.tags, wanted.release_note) == (
        ["labels.txt", "model.pt"],
        ["x"],
        "note",
    )


@pytest.mark.parametrize(
    "metadata",
    [
        {"valohai.alias": 5},
        {"valohai.alias": "a b"},
        {"valohai.tags": [1]},
        {"valohai.tags": ["a\0b"]},
        {"valohai.model-versions": [{"model_uri": "model://net/", "model_release_note": "a\0b"}]},
        {"valohai.dataset-versions": ["images"]},
        {"valohai.dataset-versions": [{"from": "dataset://images/v1"}]},
        {"valohai.dataset-versions": [{"uri": "dataset://images/v1", "exclude": [5]}]},
        {"valohai.model-versions": ["model://resnet/newest"]},
        {"valohai.model-versions": [None]},
    ],
)
def test_what_cannot_be_read_is_a_sentence_and_the_rest_is_done(metadata: object) -> None:
    description = read_description(
        [described("a.pt", metadata), described("b.pt", {"valohai.alias": "best"})]
    )
    assert len(description.problems) == 1
    assert "'a.pt'" in description.problems[0]
    assert description.labels[1][1].alias == "best"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from(["dataset://a/b", "model://m/", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["uri", "from", "model_uri", "exclude", "start_fresh"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["valohai.tags", "valohai.alias", "valohai.dataset-versions", "valohai.model-versions", "x"]
)


def test_a_number_that_no_json_has_is_a_sentence_and_the_rest_is_done() -> None:
    diverged = described("a.pt", {"loss": 1})
    diverged.metadata.fields["loss"].number_value = float("nan")
    description = read_description([diverged, described("b.pt", {"valohai.alias": "best"})])
    assert len(description.problems) == 1
    assert "'a.pt'" in description.problems[0]
    assert [labels.alias for _, labels in description.labels] == ["best"]


PATTERNS = st.text(alphabet="ab/*", max_size=8)


@given(PATTERNS, st.text(alphabet="ab/", max_size=8))
def test_a_star_stands_for_anything(pattern: str, path: str) -> None:
    wanted = WantedDataset("images", "v2", excluded=[pattern])
    meant = re.fullmatch(pattern.replace("*", ".*"), path) is not None
    assert [found.path for found in wanted.all_files([file(path)])] == ([] if meant else [path])


def test_a_hostile_pattern_takes_no_time() -> None:
    wanted = WantedDataset("images", "v2", excluded=["*a" * 400 + "b"] * 10_000)
    base = [file("a" * 1_000 + str(number)) for number in range(1_000)]
    assert wanted.all_files(base) == base


@given(st.dictionaries(KEYS, JSON, max_size=4))
def test_no_metadata_raises(metadata: dict[str, object]) -> None:
    read_description([described("a.pt", metadata)])


def test_tags_and_properties_are_recorded_once() -> None:
    written = ArtifactWritten(sha256=A, size_bytes=1)
    command = LabelFile(A, ("x", "x", "y"), ParseDict({"n": 1}, Struct()), ORIGIN)
    first = LABELS.decide(LABELS.fold([written]), command)
    assert first == [
        ArtifactTagged(sha256=A, tags=["x", "y"], origin=ORIGIN),
        ArtifactPropertiesSet(sha256=A, properties=ParseDict({"n": 1}, Struct()), origin=ORIGIN),
    ]
    assert LABELS.decide(LABELS.fold([written, *first]), command) == []
    with pytest.raises(Rejected, match="there is no file"):
        LABELS.decide(LABELS.fold([]), command)


def test_an_alias_moves_and_says_from_where() -> None:
    moved = ALIAS.decide(ALIAS.fold([]), MoveAlias("vision", "best", A, ORIGIN))
    assert moved == [ArtifactAliasMoved(project="vision", alias="best", sha256=A, origin=ORIGIN)]
    assert ALIAS.decide(ALIAS.fold(moved), MoveAlias("vision", "best", A, ORIGIN)) == []
    [again] = ALIAS.decide(ALIAS.fold(moved), MoveAlias("vision", "best", B, ORIGIN))
    assert isinstance(again, ArtifactAliasMoved)
    assert again.previous_sha256 == A


def test_a_version_never_changes() -> None:
    first = DATASET.decide(DATASET.fold([]), version("v1", file("b"), file("a")))
    [created] = first
    assert isinstance(created, DatasetVersionCreated)
    assert [found.path for found in created.files] == ["a", "b"]
    state = DATASET.fold(first)
    assert DATASET.decide(state, version("v1", file("a"), file("b"))) == []
    with pytest.raises(Rejected, match="versions never change") as refused:
        DATASET.decide(state, version("v1", file("a", B)))
    assert refused.value.code == "DATASET_VERSION_EXISTS"


def test_an_alias_of_a_dataset_stands_for_one_version_at_a_time() -> None:
    history: list[Message] = list(
        DATASET.decide(DATASET.fold([]), version("v1", file("a"), aliases=("newest",)))
    )
    history += DATASET.decide(DATASET.fold(history), version("v2", file("b"), aliases=("newest", "newest")))
    assert [event for event in history if isinstance(event, DatasetAliasMoved)] == [
        DatasetAliasMoved(project="vision", dataset="images", alias="newest", version="v1"),
        DatasetAliasMoved(
            project="vision", dataset="images", alias="newest", version="v2", previous_version="v1"
        ),
    ]
    state = DATASET.fold(history)
    assert files_of(state, "newest", "x")[0] == "v2"
    assert files_of(state, "v1", "x")[1] == [file("a")]
    with pytest.raises(NotFound, match="the newest is v2"):
        files_of(state, "v3", "dataset://images/v3")
    with pytest.raises(Rejected, match="is an alias"):
        DATASET.decide(state, version("newest", file("a")))
    with pytest.raises(Rejected, match="not an alias"):
        DATASET.decide(state, version("v3", file("a"), aliases=("v1",)))


def test_a_version_without_files_is_refused() -> None:
    with pytest.raises(Rejected, match="0 files"):
        DATASET.decide(DATASET.fold([]), version("v1"))


def test_a_version_holds_as_many_files_as_a_run_can_name() -> None:
    most = [file(f"{number:06}.jpg") for number in range(8_800)]
    [created] = DATASET.decide(DATASET.initial, version("v1", *most))
    wanted = Input(name="data", uris=["dataset://images/v1"])
    wanted.files.extend(
        InputFile(uri=wanted.uris[0], path=each.path, sha256=each.sha256, size_bytes=each.size_bytes)
        for each in most
    )
    assert created.ByteSize() < wanted.ByteSize() < BYTES_MAX
    [registered] = MODEL.decide((), RegisterVersion("vision", "resnet", most, (), "", ORIGIN))
    assert registered.ByteSize() < BYTES_MAX

    more = [*most, *(file(f"x/{number}.jpg") for number in range(400))]
    with pytest.raises(Rejected, match="v2 would have 9200 files, whose names") as refused:
        DATASET.decide(DATASET.initial, version("v2", *more))
    assert refused.value.code == "DATASET_TOO_LARGE"
    with pytest.raises(Rejected, match="model://resnet/1 would have 9200 files") as refused:
        MODEL.decide((), RegisterVersion("vision", "resnet", more, (), "", ORIGIN))
    assert refused.value.code == "MODEL_TOO_LARGE"


def test_versions_of_a_model_are_counted_and_an_attempt_registers_once() -> None:
    command = RegisterVersion("vision", "resnet", [file("model.pt")], ["x"], "note", ORIGIN)
    first = MODEL.decide(MODEL.fold([]), command)
    assert first == [
        ModelVersionRegistered(
            project="vision", model="resnet", version=1, files=[file("model.pt")], tags=["x"],
            release_note="note", origin=ORIGIN,
        )
    ]  # fmt: skip
    assert MODEL.decide(MODEL.fold(first), command) == []
    other = RegisterVersion("vision", "resnet", [file("model.pt", B)], [], "", Origin(run_id="run-2"))
    history = [*first, *MODEL.decide(MODEL.fold(first), other)]
    state = MODEL.fold(history)
    assert [version_of(state, number, "x").version for number in ("1", "2", "")] == [1, 2, 2]
    with pytest.raises(NotFound, match="the newest is 2"):
        version_of(state, "3", "model://resnet/3")
    with pytest.raises(NotFound, match="no model of that name"):
        version_of((), "", "model://resnet")


@pytest.mark.parametrize("text", ["", ".", "../x", "a/b", "a b", "é", "x" * 101, "-a"])
def test_names_that_could_not_be_read_back_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        check_label(text, "alias")


def test_references_are_read_with_and_without_their_scheme() -> None:
    assert parse_dataset_version("dataset://images/v1") == parse_dataset_version("images/v1")
    assert parse_model("model://resnet/") == parse_model("resnet")
    assert parse_model("resnet/12").version == "12"
    with pytest.raises(InvalidInput):
        parse_model("resnet/0")
