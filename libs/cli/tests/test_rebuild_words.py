"""What people read of a rebuild."""

from __future__ import annotations

from runyard.projection.v1 import types_pb2 as pb
from runyard_cli.history.rebuild_words import outcome_lines, progress_line


def test_a_fill_tells_share_rate_time_left_and_where_it_went_on() -> None:
    progress = pb.RebuildProgress(
        service="cost",
        projection="cost",
        phase=pb.REBUILD_PHASE_FILLING,
        position=40_000,
        target_position=100_000,
        events_per_second=30_000,
        eta_seconds=2,
        resumed_from_position=12_000,
    )
    assert progress_line(progress) == (
        "cost/cost: folding the log, 40,000 of 100,000 (40%), 30,000 events/s, 2.0 s left, resumed at 12,000"
    )
    progress.phase = pb.REBUILD_PHASE_COMPARING
    assert progress_line(progress) == "cost/cost: comparing with the live tables"


def test_before_it_is_known_how_far_it_goes_nothing_is_said_of_that() -> None:
    progress = pb.RebuildProgress(service="a", projection="b", phase=pb.REBUILD_PHASE_FILLING)
    assert progress_line(progress) == "a/b: folding the log"


def test_tables_that_differ_and_their_rows_are_named() -> None:
    progress = pb.RebuildProgress(parked_count=1)
    progress.tables.add(
        table="run", live_row_count=1, rebuilt_row_count=1, live_checksum="aa", rebuilt_checksum="aa"
    )
    progress.tables.add(
        table="lease", live_row_count=2, rebuilt_row_count=3, live_checksum="aa", rebuilt_checksum="bb"
    )
    progress.differences.add(table="lease", key_json='{"id": 1}', position=7, rebuilt_row_json="{}")
    assert outcome_lines(progress) == [
        "  run              1 row, checksum aa",
        "  lease            DIFFERS: live 2 rows, aa; from the log 3, bb",
        '  lease {"id": 1} at position 7',
        "    live:         no such row",
        "    from the log: {}",
        "  1 event could not be projected",
    ]
