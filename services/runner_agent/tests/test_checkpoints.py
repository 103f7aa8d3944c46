"""What a new attempt finds of the ones before it."""

from __future__ import annotations

from runyard.artifact.v1.types_pb2 import Artifact
from runyard_agent.domain.checkpoints import INPUT_NAME, checkpoints_of


def an_artifact(digit: str, *origins: tuple[str, int, int], run_id: str = "r") -> Artifact:
    """Give a file with its places: path, attempt, second."""
    artifact = Artifact(sha256=digit * 64, size_bytes=int(digit, 16))
    for path, attempt, second in origins:
        each = artifact.origins.add()
        each.origin.path, each.origin.attempt, each.origin.run_id = path, attempt, run_id
        each.written_at.seconds = second
    return artifact


def found(attempt: int, *artifacts: Artifact) -> dict[str, str]:
    made = checkpoints_of("r", attempt, artifacts)
    return {} if made is None else {file.path: file.sha256[0] for file in made.files}


def test_a_first_attempt_and_one_after_nothing_was_stored_find_no_such_input() -> None:
    assert checkpoints_of("r", 1, [an_artifact("a", ("model.pt", 1, 5))]) is None
    assert checkpoints_of("r", 2, []) is None


def test_files_of_earlier_attempts_are_found_with_their_folders_and_checksums() -> None:
    made = checkpoints_of("r", 3, [an_artifact("a", ("ckpt/1.pt", 1, 5)), an_artifact("b", ("log", 2, 9))])
    assert made is not None
    assert (made.name, made.keep_directories) == (INPUT_NAME, "full")
    assert [(file.path, file.uri, file.size_bytes) for file in made.files] == [
        ("ckpt/1.pt", f"datum://{'a' * 64}", 10),
        ("log", f"datum://{'b' * 64}", 11),
    ]


def test_the_newest_version_of_a_path_is_found() -> None:
    versions = [an_artifact("a", ("last.pt", 1, 5)), an_artifact("b", ("last.pt", 1, 9))]
    assert found(2, *versions) == found(2, *reversed(versions)) == {"last.pt": "b"}


def test_a_later_attempt_counts_before_one_whose_machine_came_back_late() -> None:
    late, later = an_artifact("a", ("last.pt", 1, 99)), an_artifact("b", ("last.pt", 2, 50))
    assert found(3, late, later) == found(3, later, late) == {"last.pt": "b"}
    assert found(2, late, later) == {"last.pt": "a"}


def test_the_same_bytes_at_two_paths_are_two_files() -> None:
    made = checkpoints_of("r", 2, [an_artifact("a", ("1.pt", 1, 5), ("last.pt", 1, 5))])
    assert made is not None
    assert [file.path for file in made.files] == ["1.pt", "last.pt"]
    assert len(made.uris) == 1


def test_files_of_other_runs_and_of_clients_are_not_found() -> None:
    others = [an_artifact("a", ("m", 1, 5), run_id="other"), an_artifact("b", ("n", 0, 5), run_id="")]
    assert found(2, *others) == {}
