from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.artifact.v1.events_pb2 import ArtifactUploadBegun, ArtifactWritten, CodeSnapshotRecorded
from runyard.artifact.v1.types_pb2 import Origin
from runyard.run.v1.types_pb2 import CodeRef
from runyard_artifact.domain.artifact import ARTIFACT, ArtifactState, BeginUpload, CommitUpload
from runyard_artifact.domain.code import CODE, RecordCodeSnapshot, check_code
from runyard_artifact.domain.origin import (
    SIZE_BYTES_MAX,
    check_file,
    check_origin,
    check_path,
    check_versions_before,
)
from runyard_artifact.domain.part_plan import (
    MEBIBYTE,
    PART_BYTES_MAX,
    PART_COUNT_MIN,
    SINGLE_PART_BYTES_MAX,
    plan_parts,
)
from runyard_artifact.domain.reference import object_key, parse_datum_name
from runyard_core.errors import InvalidInput, Rejected

SHA = "ab" * 32
OUTPUT = Origin(path="model.pt", run_id="r1", attempt=1, project="digits")
BEGIN = BeginUpload(sha256=SHA, size_bytes=7, origin=OUTPUT)
COMMIT = CommitUpload(sha256=SHA, size_bytes=7, origin=OUTPUT, object_key=object_key(SHA))
BEGUN = ArtifactUploadBegun(sha256=SHA, size_bytes=7, origin=OUTPUT)
WRITTEN = ArtifactWritten(sha256=SHA, size_bytes=7, origin=OUTPUT, object_key=object_key(SHA))


def test_a_new_file_is_announced() -> None:
    assert ARTIFACT.decide(ArtifactState(), BEGIN) == [BEGUN]


@pytest.mark.parametrize("past", [[BEGUN], [WRITTEN], [BEGUN, WRITTEN]])
def test_a_known_file_is_not_announced_again(past: list[ArtifactUploadBegun | ArtifactWritten]) -> None:
    assert ARTIFACT.decide(ARTIFACT.fold(past), BEGIN) == []


def test_a_file_is_written_once_for_each_origin() -> None:
    state = ARTIFACT.fold([BEGUN, WRITTEN])
    assert ARTIFACT.decide(state, COMMIT) == []
    other = Origin(path="best/model.pt", run_id="r2", attempt=1, project="digits")
    command = CommitUpload(sha256=SHA, size_bytes=7, origin=other, object_key=object_key(SHA))
    assert ARTIFACT.decide(state, command) == [
        ArtifactWritten(sha256=SHA, size_bytes=7, origin=other, object_key=object_key(SHA))
    ]


def test_bytes_that_are_left_in_a_place_again_after_others_are_written_again() -> None:
    again = replace(COMMIT, versions_before=2)
    written_again = ArtifactWritten()
    written_again.CopyFrom(WRITTEN)
    written_again.versions_before = 2
    state = ARTIFACT.fold([WRITTEN])
    assert ARTIFACT.decide(state, again) == [written_again]
    # A repetition, and what comes late, change nothing.
    state = ARTIFACT.fold([written_again], state)
    for late in (again, COMMIT, replace(COMMIT, versions_before=1)):
        assert ARTIFACT.decide(state, late) == []
    assert ARTIFACT.decide(ArtifactState(), again) == [written_again]


def test_a_number_of_versions_is_none_below_zero() -> None:
    check_versions_before(0, "versions_before")
    with pytest.raises(InvalidInput) as refused:
        check_versions_before(-1, "versions_before")
    assert refused.value.code == "BAD_VERSIONS"


def test_a_known_file_has_one_size() -> None:
    state = ARTIFACT.fold([WRITTEN])
    for command in (
        BeginUpload(sha256=SHA, size_bytes=8, origin=OUTPUT),
        CommitUpload(sha256=SHA, size_bytes=8, origin=OUTPUT, object_key=object_key(SHA)),
    ):
        with pytest.raises(Rejected) as refused:
            ARTIFACT.decide(state, command)
        assert refused.value.code == "SIZE_MISMATCH"


def test_an_unknown_event_changes_nothing() -> None:
    assert ARTIFACT.fold([CodeSnapshotRecorded()]) == ArtifactState()


def test_a_tree_is_recorded_once_for_each_commit() -> None:
    first = CodeRef(tree_sha256=SHA, git_commit="c1")
    recorded = CodeSnapshotRecorded(code=first, manifest_sha256=SHA)
    assert CODE.decide(CODE.initial, RecordCodeSnapshot(first)) == [recorded]
    state = CODE.fold([recorded])
    assert CODE.decide(state, RecordCodeSnapshot(first)) == []
    later = CodeRef(tree_sha256=SHA, git_commit="c2")
    assert CODE.decide(state, RecordCodeSnapshot(later)) == [
        CodeSnapshotRecorded(code=later, manifest_sha256=SHA)
    ]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("", "BAD_PATH"),
        ("a" * 1025, "BAD_PATH"),
        ("a\0b", "BAD_PATH"),
        ("a\nb", "BAD_PATH"),
        ("/etc/passwd", "PATH_ESCAPES"),
        ("../x", "PATH_ESCAPES"),
        ("a/../../x", "PATH_ESCAPES"),
        ("a/..", "PATH_ESCAPES"),
        ("./a", "PATH_ESCAPES"),
        ("a//b", "PATH_ESCAPES"),
        ("a/", "PATH_ESCAPES"),
        ("..\\x", "PATH_ESCAPES"),
        ("a\\..\\x", "PATH_ESCAPES"),
        ("\\\\host\\share", "PATH_ESCAPES"),
        ("C:/x", "PATH_ESCAPES"),
        ("c:x", "PATH_ESCAPES"),
    ],
)
def test_a_path_that_escapes_is_refused(path: str, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_path(path, "origin.path")
    assert refused.value.code == code
    assert list(refused.value.field_violations) == ["origin.path"]
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("path", ["a", "a/b.txt", "..a", "a..", "ö/ü ß.bin", "ab:c/d", ".hidden"])
def test_a_path_below_the_outputs_is_taken(path: str) -> None:
    check_path(path, "origin.path")


@pytest.mark.parametrize(
    ("sha256", "size_bytes", "code"),
    [
        ("", 0, "BAD_SHA256"),
        ("AB" * 32, 0, "BAD_SHA256"),
        ("../" + "a" * 61, 0, "BAD_SHA256"),
        (SHA + "\n", 0, "BAD_SHA256"),
        (SHA, -1, "BAD_SIZE"),
        (SHA, SIZE_BYTES_MAX + 1, "FILE_TOO_LARGE"),
    ],
)
def test_what_names_no_content_is_refused(sha256: str, size_bytes: int, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_file(sha256, size_bytes)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        (Origin(path="a", run_id="../x"), "BAD_RUN_ID"),
        (Origin(path="a", attempt=1), "BAD_ATTEMPT"),
        (Origin(path="a", run_id="r", attempt=-1), "BAD_ATTEMPT"),
        (Origin(path="a", project="No Name"), "BAD_PROJECT"),
    ],
)
def test_an_origin_that_is_nowhere_is_refused(origin: Origin, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_origin(origin)
    assert refused.value.code == code


def test_a_code_reference_is_checked() -> None:
    check_code(CodeRef(tree_sha256=SHA, patch_sha256=SHA, git_commit="c" * 40))
    for code in (CodeRef(), CodeRef(tree_sha256="x"), CodeRef(tree_sha256=SHA, patch_sha256="x")):
        with pytest.raises(InvalidInput, match="SHA-256"):
            check_code(code)


@given(st.integers(min_value=0, max_value=SIZE_BYTES_MAX))
def test_parts_cover_the_file_and_keep_their_limits(size_bytes: int) -> None:
    parts = list(plan_parts(size_bytes))
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert sum(part.size_bytes for part in parts) == size_bytes
    assert parts[0].offset_bytes == 0
    for former, later in pairwise(parts):
        assert former.offset_bytes + former.size_bytes == later.offset_bytes
    if size_bytes <= SINGLE_PART_BYTES_MAX:
        assert len(parts) == 1
    else:
        assert len(parts) <= 4_000
        assert all(part.size_bytes <= PART_BYTES_MAX for part in parts[:-1])
        assert all(part.size_bytes > SINGLE_PART_BYTES_MAX // PART_COUNT_MIN for part in parts[:-1])
        assert all(part.size_bytes % MEBIBYTE == 0 for part in parts[:-1])


def test_a_datum_is_named_whole_or_by_eight_digits() -> None:
    assert parse_datum_name(f"datum://{SHA}").is_whole
    assert parse_datum_name(SHA[:8]).prefix == SHA[:8]
    assert not parse_datum_name(SHA[:8]).is_whole
    for wrong in ("", "datum://", SHA[:7], SHA + "0", "datum://zzzzzzzz", "datum://../../etc"):
        with pytest.raises(InvalidInput) as refused:
            parse_datum_name(wrong)
        assert refused.value.code == "BAD_DATUM"
