from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runyard.lineage.v1.lineage_service_pb2 import EdgeRelation, VertexKind
from runyard.run.v1.events_pb2 import EnvironmentCaptured, RunFinished, RunInputFetched, RunQueued, RunStarted
from runyard.run.v1.glances_pb2 import EnvironmentCapturedGlance
from runyard.run.v1.types_pb2 import CauseCode, CodeRef, Input, InputFile, Outcome, RunSpec
from runyard_contracts.envelope import UndecodableEventError
from runyard_contracts.ids import sha256_of
from runyard_lineage.projections.edges import EdgesProjection
from runyard_lineage.tables import EDGE, RUN_NUMBER, VERTEX
from runyard_replay.graph.identities import canonical_json, environment_id
from runyard_replay.graph.rows import EdgeRow, VertexRow, described_after

from .folding import fold, recorded
from .story import CLEAN, MODEL, PREPARE, RAW, TRAIN, TREE, environment, story, versions


def _short(edge: EdgeRow) -> tuple[str, str, str, str]:
    relation = EdgeRelation.Name(EdgeRelation.ValueType(edge.relation)).removeprefix("EDGE_RELATION_")
    return (edge.source_id, relation, edge.target_id, edge.role)


def test_a_run_is_tied_to_everything_that_shaped_it_and_that_it_made() -> None:
    edges = {_short(edge) for edge in fold(story()).rows(EDGE)}
    parameters = sha256_of(b'{"epochs":5}')
    expected = {
        (TRAIN, "WAS_ASSOCIATED_WITH", "user:alice", "submitter"),
        (TRAIN, "USED", TREE, ""),
        (TRAIN, "USED", parameters, ""),
        (TRAIN, "WAS_ASSOCIATED_WITH", "n1", ""),
        (TRAIN, "WAS_ASSOCIATED_WITH", "GPU-1", ""),
        (TRAIN, "USED", environment_id(environment(TRAIN)), ""),
        (TRAIN, "USED", CLEAN, "data"),
        (MODEL, "WAS_GENERATED_BY", TRAIN, "out/model.pt"),
    }
    assert expected == {edge for edge in edges if TRAIN in edge}
    assert (RAW, "WAS_ATTRIBUTED_TO", "user:alice", "raw.csv") in edges
    assert (TREE, "WAS_ATTRIBUTED_TO", "user:alice", "") in edges
    assert (CLEAN, "WAS_GENERATED_BY", PREPARE, "clean.npz") in edges


def test_a_file_that_was_fetched_on_demand_is_used() -> None:
    file = InputFile(uri="https://example.com/late", path="late", sha256=RAW, size_bytes=7)
    folded = fold([*story(), RunInputFetched(run_id=TRAIN, attempt=1, input="late", file=file)])
    assert (TRAIN, "USED", RAW, "late") in {_short(edge) for edge in folded.rows(EDGE)}


def test_an_edge_is_told_once_by_each_event_that_says_so() -> None:
    used = Input(name="data", files=[InputFile(path="a", sha256=RAW), InputFile(path="b", sha256=RAW)])
    folded = fold([*story(), RunStarted(run_id=TRAIN, inputs=[used, used])])
    edges = folded.rows(EDGE)
    assert len({(*edge.key, edge.position) for edge in edges}) == len(edges)
    # run.finished comes after artifact.written, and does not tell it again.
    made = [edge.position for edge in edges if edge.source_id == MODEL]
    assert made == [len(story()) - 1]


def test_versions_of_datasets_and_models_stand_between_files_and_runs() -> None:
    folded = fold([*story(), *versions()])
    edges = {_short(edge) for edge in folded.rows(EDGE) if edge.position > len(story())}
    v1, v2 = "dataset://raw_set/v1@digits", "dataset://raw_set/v2@digits"
    net, run = "model://net/1@digits", "0198cccc-0000-7000-8000-000000000003"
    assert {
        (v1, "HAD_MEMBER", RAW, "raw.csv"),
        (v1, "WAS_ATTRIBUTED_TO", "user:alice", ""),
        (v2, "HAD_MEMBER", RAW, "raw.csv"),
        (v2, "WAS_DERIVED_FROM", v1, ""),
        (net, "HAD_MEMBER", MODEL, "model.pt"),
        (net, "WAS_GENERATED_BY", TRAIN, ""),
        (run, "USED", v2, "set"),
        (run, "USED", RAW, "set"),
        (run, "USED", net, "model"),
        (run, "USED", MODEL, "model"),
    } <= edges
    version = folded.get(VERTEX, VertexKind.VERTEX_KIND_DATASET_VERSION, v2)
    assert version is not None
    assert version.label == "dataset://raw_set/v2"
    assert not [row for row in folded.rows(VERTEX) if row.kind == VertexKind.VERTEX_KIND_EXTERNAL]


def test_two_runs_in_the_same_environment_share_its_vertex() -> None:
    assert environment_id(environment(PREPARE)) == environment_id(environment(TRAIN))
    other = environment(TRAIN)
    other.packages[0].version = "2.1"
    assert environment_id(other) != environment_id(environment(TRAIN))


def test_vertices_are_described_for_people() -> None:
    folded = fold(story())
    run = folded.get(VERTEX, VertexKind.VERTEX_KIND_RUN, TRAIN)
    node = folded.get(VERTEX, VertexKind.VERTEX_KIND_NODE, "n1")
    model = folded.get(VERTEX, VertexKind.VERTEX_KIND_ARTIFACT, MODEL)
    code = folded.get(VERTEX, VertexKind.VERTEX_KIND_CODE, TREE)
    assert run is not None
    assert node is not None
    assert model is not None
    assert code is not None
    assert (run.label, node.label, model.label) == ("digits#2 train", "n1 (1 x H100)", "model.pt")
    assert code.label == "c0ffeec0ffee (dirty)"
    assert json.loads(run.properties)["outcome"] == "SUCCEEDED"
    assert json.loads(model.properties) == {"size_bytes": "9"}


def test_a_vertex_gets_a_new_row_only_when_something_new_is_known() -> None:
    folded = fold(story())
    actors = [row for row in folded.rows(VERTEX) if row.kind == VertexKind.VERTEX_KIND_ACTOR]
    assert len(actors) == 1
    code = [row for row in folded.rows(VERTEX) if row.kind == VertexKind.VERTEX_KIND_CODE]
    assert len(code) == 1


def test_code_keeps_its_commit_when_the_same_tree_comes_from_a_folder_without_git() -> None:
    again = RunQueued(
        run_id="later", project="digits", number=3, spec=RunSpec(code=CodeRef(tree_sha256=TREE))
    )
    for events, label in (([*story(), again], "c0ffeec0ffee (dirty)"), ([again], "")):
        code = fold(events).get(VERTEX, VertexKind.VERTEX_KIND_CODE, TREE)
        assert code is not None
        assert code.label == label


def test_a_project_counter_names_its_run() -> None:
    row = fold(story()).get(RUN_NUMBER, "digits", 2)
    assert row is not None
    assert row.run_id == TRAIN


def test_an_outside_reference_is_kept_without_its_credentials() -> None:
    uri = "https://bob:secret@data.example/set.tar?X-Amz-Signature=abc"
    started = RunStarted(run_id=TRAIN, inputs=[Input(name="set", uris=[uri, "s3://bucket/key"])])
    targets = {edge.target_id for edge in fold([started]).rows(EDGE)}
    assert targets == {"https://data.example/set.tar", "s3://bucket/key"}


@pytest.mark.parametrize(
    ("uri", "known_as"),
    [
        ("https://alice:secret@[half/data.csv?token=t", "https://[half/data.csv"),
        ("s3://bucket[1/data.csv", "s3://bucket[1/data.csv"),
        ("https://alice:secret@exa\u2100mple.com/data.csv", "https://exa\u2100mple.com/data.csv"),
    ],
)
def test_an_outside_reference_that_is_no_url_is_kept_without_its_credentials(uri: str, known_as: str) -> None:
    folded = fold([RunStarted(run_id=TRAIN, inputs=[Input(name="data", uris=[uri])])])
    assert [row.vertex_id for row in folded.rows(VERTEX)] == [known_as]


def test_an_outcome_of_a_later_version_is_kept_as_its_number() -> None:
    finished = RunFinished(run_id=TRAIN, outcome=Outcome.ValueType(77))
    finished.cause.code = CauseCode.ValueType(78)
    vertex = fold([finished]).get(VERTEX, VertexKind.VERTEX_KIND_RUN, TRAIN)
    assert vertex is not None
    assert json.loads(vertex.properties) == {"outcome": "77", "cause": "78"}


def test_text_that_postgres_cannot_store_or_index_is_made_storable() -> None:
    started = RunStarted(run_id=TRAIN, inputs=[Input(name="a\x00b", uris=["s3://b/" + "k" * 5000])])
    (edge,) = fold([started, RunQueued()]).rows(EDGE)[:1]
    assert edge.role == "a\ufffdb"
    assert len(edge.target_id) == 200


def test_properties_are_canonical_whatever_people_call_things() -> None:
    named = RunQueued(run_id="r", project='a "b"\\', number=1, title="é\n\x00", spec=RunSpec(step="\t,"))
    folded = fold([*story(), *versions(), named, RunFinished(run_id="r", outcome=Outcome.OUTCOME_FAILED)])
    for row in folded.rows(VERTEX):
        assert row.properties == canonical_json(json.loads(row.properties))
    run = folded.get(VERTEX, VertexKind.VERTEX_KIND_RUN, "r")
    assert run is not None
    assert json.loads(run.properties) == {
        "number": "1",
        "outcome": "FAILED",
        "project": 'a "b"\\',
        "step": "\t,",
        "title": "é\n\x00",
    }


def test_an_event_with_a_part_that_does_not_parse_is_undecodable() -> None:
    broken = EnvironmentCapturedGlance(run_id=TRAIN, environment=b"\xff")
    (event,) = recorded([EnvironmentCaptured()])
    event.envelope.data = broken.SerializeToString()
    with pytest.raises(UndecodableEventError, match="position 1"):
        EdgesProjection().reads(event)


def test_an_input_too_large_to_be_kept_says_the_same() -> None:
    files = [InputFile(path=f"{number}", sha256=sha256_of(b"%d" % number)) for number in range(100)]
    folded = fold([*story(), RunStarted(run_id=TRAIN, inputs=[Input(name="data", files=files)])])
    used = [edge for edge in folded.rows(EDGE) if edge.position > len(story())]
    assert [edge.target_id for edge in used] == [file.sha256 for file in files]
    assert {edge.role for edge in used} == {"data"}


TEXTS = st.dictionaries(
    st.sampled_from(["a", "ab", "a_b", "b"]), st.text(alphabet='",\\{}:é\x00a', max_size=5)
)


@given(known=TEXTS, told=TEXTS.filter(bool))
@example(known={"a": ","}, told={"a": ""})
@example(known={"a": '",'}, told={"b": "\\"})
@example(known={"a": ""}, told={"ab": ","})
def test_properties_told_later_win_whatever_they_are(known: dict[str, str], told: dict[str, str]) -> None:
    before = VertexRow(VertexKind.VERTEX_KIND_RUN, "r", 1, "", canonical_json(known))
    thing = (VertexKind.VERTEX_KIND_RUN, "r", "", canonical_json(told))
    assert described_after(thing, before, 2).properties == canonical_json(known | told)
