"""The files of a run, by path and version."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.artifact.v1.types_pb2 import Artifact, ArtifactOrigin, Origin
from runyard.record.v1.record_service_pb2 import Record
from runyard.run.v1.types_pb2 import Attempt, FileList, Input, Run
from runyard_cli.commands.outputs import output_rows
from runyard_cli.commands.show import record_lines
from runyard_cli.comparison import output_paths
from runyard_cli.run_outputs import RunOutput, newest_outputs, outputs_of
from runyard_cli.stored_lists import add_listed
from runyard_contracts.file_list import ListedFile


def stored(path: str, *, at: int = 0, attempt: int = 1, run_id: str = "r1") -> ArtifactOrigin:
    origin = Origin(path=path, run_id=run_id, attempt=attempt)
    return ArtifactOrigin(origin=origin, written_at=Timestamp(seconds=at))


def file(sha256: str, *origins: ArtifactOrigin) -> Artifact:
    return Artifact(sha256=sha256, size_bytes=3, name="of another run", origins=origins)


def test_very_many_files_of_a_record_are_counted_and_their_list_is_named() -> None:
    one = Input(name="ckpt", file_list=FileList(sha256="b" * 64, file_count=300))
    files = [ListedFile(f"{number}", f"{number:064}", 5) for number in range(300)]
    add_listed(one, files[:200])
    made = FileList(sha256="c" * 64, file_count=12_345, size_bytes=7)
    attempts = [Attempt(number=1, output_list=made), Attempt(number=2, output_list=FileList(file_count=8))]
    record = Record(run=Run(attempts=attempts), datasets=[one])

    text = "\n".join(record_lines(record, whole=False, now=0))
    assert "ckpt: 280 more files (--all)" in text
    assert f"attempt 1: 12,345 files, 7 B, list SHA-256 {'c' * 16}" in text
    assert "attempt 2: 8 files, 0 B, no list of them" in text

    add_listed(record.datasets[0], files)
    whole = [line for line in record_lines(record, whole=True, now=0) if "ckpt: " in line]
    assert len(whole) == 300
    assert whole[-1].endswith(f"ckpt: 299, 5 B, SHA-256 {299:064}")


def test_the_same_bytes_at_several_paths_are_several_files() -> None:
    left = [file("aa", stored("b.txt"), stored("sub/c.txt"), stored("z", run_id="r2"), stored("a.txt"))]
    assert outputs_of("r1", left) == [
        RunOutput("a.txt", "aa", 3),
        RunOutput("b.txt", "aa", 3),
        RunOutput("sub/c.txt", "aa", 3),
    ]


def test_the_newest_version_of_a_path_is_what_is_left_of_it() -> None:
    # As the artifact service gives them: newest file first.
    left = [
        file("33", stored("last.json", at=30)),
        file("22", stored("last.json", at=20)),
        file("11", stored("last.json", at=10)),
    ]
    assert [(each.sha256, each.version, each.version_count) for each in outputs_of("r1", left)] == [
        ("11", 1, 3),
        ("22", 2, 3),
        ("33", 3, 3),
    ]
    assert [each.sha256 for each in newest_outputs("r1", left)] == ["33"]
    assert output_paths(Record(run=Run(run_id="r1"), outputs=left)) == {"last.json": "33"}


def test_what_a_later_attempt_stored_is_newer_than_what_a_machine_brought_back_late() -> None:
    left = [file("late", stored("last.json", at=90)), file("next", stored("last.json", at=50, attempt=2))]
    assert [each.sha256 for each in newest_outputs("r1", left)] == ["next"]


def test_bytes_that_came_back_are_the_newest_version() -> None:
    left = [
        file("aa", stored("last.json", at=10), stored("last.json", at=30)),
        file("bb", stored("last.json", at=20)),
    ]
    assert [each.sha256 for each in outputs_of("r1", left)] == ["bb", "aa"]


def test_a_list_says_which_version_only_where_there_are_several() -> None:
    once = [RunOutput("a", "f" * 64, 3)]
    assert output_rows(once) == (("PATH", "SIZE", "URI"), [("a", "3 B", f"datum://{'f' * 16}")])
    headings, rows = output_rows(
        [*once, RunOutput("b", "e" * 64, 3, 1, 2), RunOutput("b", "d" * 64, 3, 2, 2)]
    )
    assert headings == ("PATH", "SIZE", "URI", "VERSION")
    assert [row[3] for row in rows] == ["", "1 of 2", "2 of 2"]


def test_a_record_shows_the_first_outputs_by_path_and_counts_the_rest() -> None:
    left = [file(f"{number:064x}", stored(f"d/{number:03}.txt")) for number in reversed(range(100))]
    record = Record(run=Run(run_id="r1"), outputs=left)
    lines = [line.strip() for line in record_lines(record, whole=False, now=0)]
    shown = [line for line in lines if "d/" in line]
    assert len(shown) == 20
    assert shown[0].endswith("d/000.txt, 3 B, datum://0000000000000000")
    assert "and 80 more (--all, or `runyard outputs`)" in lines
    whole = [line for line in record_lines(record, whole=True, now=0) if "d/" in line]
    assert len(whole) == 100


def test_a_record_shows_what_is_left_of_a_path_and_how_many_versions_there_were() -> None:
    left = [file("2" * 64, stored("last.json", at=20)), file("1" * 64, stored("last.json", at=10))]
    record = Record(run=Run(run_id="r1"), outputs=left)
    text = "\n".join(record_lines(record, whole=False, now=0))
    assert f"last.json, 3 B, datum://{'2' * 16}, the newest of 2 versions" in text
    assert "1" * 16 not in text
