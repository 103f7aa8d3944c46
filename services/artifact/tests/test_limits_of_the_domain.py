"""Where the rules for names, paths, sizes and parts begin and end: each limit is tried from both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard.artifact.v1.types_pb2 import Origin
from runyard.run.v1.types_pb2 import CodeRef, Input, InputFile
from runyard_artifact.domain.code import CODE, RecordCodeSnapshot, TreeCounts, check_code
from runyard_artifact.domain.naming import (
    alias_stream,
    check_label,
    check_project,
    dataset_stream,
    model_stream,
    parse_dataset_version,
    parse_model,
)
from runyard_artifact.domain.origin import check_file, check_origin, check_path
from runyard_artifact.domain.part_plan import Part, part_bytes, plan_parts
from runyard_artifact.domain.resolution import ResolvedFile, place_files
from runyard_artifact.domain.version_size import check_size
from runyard_core.errors import InvalidInput, Rejected

SHA = "ab" * 32
MIB = 1024 * 1024
GIB = 1024 * MIB


def refused(check: object, *arguments: object) -> InvalidInput:
    with pytest.raises(InvalidInput) as error:
        check(*arguments)  # type: ignore[operator]  # any of the checks
    return error.value


@pytest.mark.parametrize("text", ["a", "9", "A.b_c-d", "x" * 100])
def test_a_label_that_can_be_read_back_is_given_as_it_is(text: str) -> None:
    assert check_label(text, "alias") == text


def test_a_label_that_is_refused_says_what_it_is_of() -> None:
    error = refused(check_label, "no/" + "x" * 500, "model")
    assert (error.code, error.message.startswith("model 'no/")) == ("BAD_NAME", True)
    assert len(error.message) < 300


def test_a_project_is_a_name() -> None:
    assert check_project("vision-2") == "vision-2"
    error = refused(check_project, "No Project" + "x" * 500)
    assert error.code == "BAD_PROJECT"
    assert len(error.message) < 200


def test_a_reference_says_name_and_version() -> None:
    dataset, model = parse_dataset_version("dataset://images/v1"), parse_model("model://resnet/12")
    assert (dataset.name, dataset.version, model.name, model.version) == ("images", "v1", "resnet", "12")
    assert parse_model("resnet").version == ""


@pytest.mark.parametrize("text", ["images", "images/", "/v1", "images/a/b", "model://images/v1"])
def test_a_dataset_is_named_with_one_version(text: str) -> None:
    assert refused(parse_dataset_version, text).code == "BAD_NAME"


@pytest.mark.parametrize("version", ["0", "01", "-1", "1.0", "v1", "9" * 10])
def test_a_version_of_a_model_is_a_whole_number_from_one(version: str) -> None:
    assert refused(parse_model, f"resnet/{version}").code == "BAD_NAME"
    assert parse_model("resnet/" + "9" * 9).version == "9" * 9


def test_what_is_named_alike_in_two_projects_has_two_streams() -> None:
    for stream, kind in ((alias_stream, "alias"), (dataset_stream, "dataset"), (model_stream, "model")):
        assert [stream(project, "x") for project in ("a", "b")] == [f"{kind}-a.x", f"{kind}-b.x"]


@pytest.mark.parametrize("path", ["a" * 1024, "ö" * 512])
def test_a_path_has_at_most_1024_bytes(path: str) -> None:
    check_path(path, "path")
    assert refused(check_path, path + "a", "path").code == "BAD_PATH"


@pytest.mark.parametrize("control", ["\x00", "\x1f", "\x7f"])
def test_a_path_holds_no_control_character(control: str) -> None:
    assert refused(check_path, f"a{control}b", "path").code == "BAD_PATH"
    check_path("a b~c", "path")


def test_a_long_path_is_not_repeated_whole() -> None:
    assert len(refused(check_path, "a" * 100_000, "path").message) < 400


def test_a_file_has_0_bytes_to_250_gib() -> None:
    check_file(SHA, 0)
    check_file(SHA, 250 * GIB)
    assert refused(check_file, SHA, 250 * GIB + 1).code == "FILE_TOO_LARGE"
    assert refused(check_file, SHA, -1).field_violations == {"size_bytes": "a file has no -1 bytes"}
    assert list(refused(check_file, "x" * 500, 0).field_violations) == ["sha256"]


def test_a_place_needs_neither_run_nor_project() -> None:
    check_origin(Origin(path="a"))
    check_origin(Origin(path="a", project="vision"))
    check_origin(Origin(path="a", run_id="r" * 64))
    check_origin(Origin(path="a", run_id="r", attempt=1))


@pytest.mark.parametrize(
    ("origin", "code", "field"),
    [
        (Origin(path="../a"), "PATH_ESCAPES", "origin.path"),
        (Origin(path="a", run_id="r" * 65), "BAD_RUN_ID", "origin.run_id"),
        (Origin(path="a", attempt=1), "BAD_ATTEMPT", "origin.attempt"),
        (Origin(path="a", project="x y"), "BAD_PROJECT", "origin.project"),
    ],
)
def test_a_refused_place_names_the_field(origin: Origin, code: str, field: str) -> None:
    error = refused(check_origin, origin)
    assert (error.code, list(error.field_violations)) == (code, [field])


@pytest.mark.parametrize("field", ["git_commit", "git_branch", "git_remote_url"])
def test_what_git_says_of_a_tree_has_at_most_1024_characters(field: str) -> None:
    code = CodeRef(tree_sha256=SHA)
    setattr(code, field, "x" * 1024)
    check_code(code)
    setattr(code, field, "x" * 1025)
    error = refused(check_code, code)
    assert error.code == "BAD_CODE"
    assert error.field_violations == {f"code.{field}": "longer than 1024 characters"}


def test_a_tree_needs_its_hash_and_may_have_a_patch() -> None:
    check_code(CodeRef(tree_sha256=SHA))
    for code, field in (
        (CodeRef(patch_sha256=SHA), "tree"),
        (CodeRef(tree_sha256=SHA, patch_sha256="x"), "patch"),
    ):
        error = refused(check_code, code)
        assert (error.code, list(error.field_violations)) == ("BAD_SHA256", [f"code.{field}_sha256"])


def test_a_recorded_tree_is_known_by_its_counts() -> None:
    assert CODE.initial.counts is None
    code = CodeRef(tree_sha256=SHA, file_count=3, size_bytes=70)
    [recorded] = CODE.decide(CODE.initial, RecordCodeSnapshot(code))
    assert CODE.fold([recorded]).counts == TreeCounts(file_count=3, size_bytes=70)


def test_up_to_64_mib_a_file_goes_in_one_part() -> None:
    assert list(plan_parts(0)) == [Part(1, 0, 0)]
    assert list(plan_parts(64 * MIB)) == [Part(1, 0, 64 * MIB)]
    assert len(list(plan_parts(64 * MIB + 1))) == 4


def test_up_to_4_gib_a_file_goes_in_one_part_where_that_is_asked_for() -> None:
    for size_bytes in (0, 64 * MIB + 1, 4 * GIB):
        assert list(plan_parts(size_bytes, in_one_request=True)) == [Part(1, 0, size_bytes)]
    larger = 4 * GIB + 1
    assert list(plan_parts(larger, in_one_request=True)) == list(plan_parts(larger))
    assert len(list(plan_parts(larger))) == 65


@pytest.mark.parametrize(
    ("size_bytes", "part_mib"),
    [(64 * MIB + 1, 17), (68 * MIB, 17), (68 * MIB + 1, 18), (256 * MIB, 64), (250 * GIB, 64)],
)
def test_a_larger_file_goes_in_four_parts_of_whole_mib_until_they_have_64(
    size_bytes: int, part_mib: int
) -> None:
    assert part_bytes(size_bytes) == part_mib * MIB


@given(st.lists(st.tuples(st.text("ab/ö", min_size=1), st.sampled_from(["", "model://m/1"])), max_size=5))
def test_every_resolved_file_is_placed_in_its_order(found: list[tuple[str, str]]) -> None:
    files = [ResolvedFile(f"u{n}", f"s{n}", name, n, resolved) for n, (name, resolved) in enumerate(found)]
    wanted = Input(name="data", uris=["u", "v"], keep_directories="full", files=[InputFile(path="old")])
    placed = place_files(wanted, files)
    assert list(placed.files) == [
        InputFile(
            uri=file.uri,
            path=file.name,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            resolved_uri=file.resolved_uri,
        )
        for file in files
    ]
    assert (placed.name, list(placed.uris), wanted.files[0].path) == ("data", ["u", "v"], "old")


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        (Input(uris=["u"]), "c"),
        (Input(uris=["u"], keep_directories="none"), "c"),
        (Input(uris=["u"], keep_directories="suffix"), "a/b/c"),
        (Input(uris=["u"], keep_directories="full"), "a/b/c"),
        (Input(uris=["u"], keep_directories="full", filename="new"), "new"),
        (Input(uris=["u", "v"], filename="new"), "c"),
        (Input(filename="new"), "c"),
    ],
)
def test_a_file_goes_by_its_own_name_unless_the_input_says_otherwise(wanted: Input, path: str) -> None:
    [placed] = place_files(wanted, [ResolvedFile("u", SHA, "a/b/c", 1)]).files
    assert placed.path == path


def test_a_version_takes_950000_bytes_of_names_and_not_one_more() -> None:
    name = "dataset://images/v1"
    # An entry takes its own bytes, its version's name and 8.
    file = VersionFile(path="a" * 900_000, sha256=SHA)
    room = 950_000 - file.ByteSize() - len(name) - 8
    whole = VersionFile(path="a" * (900_000 + room), sha256=SHA)
    check_size([whole], name, "TOO_LARGE")
    whole.path += "a"
    with pytest.raises(Rejected, match="take 950001 bytes; want at most 950000: pack them") as error:
        check_size([whole], name, "TOO_LARGE")
    assert error.value.code == "TOO_LARGE"
