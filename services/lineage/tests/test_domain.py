from __future__ import annotations

import pytest
from google.protobuf.struct_pb2 import ListValue, Value

from runyard.metric.v1.metric_service_pb2 import GetRunSummaryResponse, MetricLatest
from runyard.record.v1.record_service_pb2 import Record
from runyard.run.v1.types_pb2 import Attempt, ParameterValue, Run, RunState, TelemetryMark
from runyard_core.errors import InvalidInput
from runyard_lineage.domain.completeness import completeness
from runyard_lineage.record_size import add_results
from runyard_replay.graph.identities import canonical_json, key_text, parameters_id, parameters_json
from runyard_replay.graph.names import IdPrefix, NumberedRun, VersionName, WholeId, parse_name

MARK = TelemetryMark(
    node_id="n1", spool_id="s1", last_sequence=9, log_line_count=40, metric_point_count=5, sample_count=7
)
FINISHED = Run(
    state=RunState.RUN_STATE_FINISHED, attempts=[Attempt(number=1), Attempt(number=2, telemetry=MARK)]
)
ALL_THERE = GetRunSummaryResponse(log_line_count=40, metric_point_count=5, sample_count=7)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("digits#12", NumberedRun("digits", 12)),
        ("digits#latest", NumberedRun("digits", None)),
        ("0198aaaa-0000", IdPrefix("0198aaaa-0000")),
        ("ab" * 32, IdPrefix("ab" * 32)),
        ("datum://abcdef01", IdPrefix("abcdef01", files_only=True)),
        ("dataset://images/v3", VersionName("dataset://images/v3@")),
        ("model://resnet/2@digits", WholeId("model://resnet/2@digits")),
        ("user:alice", WholeId("user:alice")),
        ("node-1", WholeId("node-1")),
        ("nul\0", WholeId("nul\ufffd")),
        ("s3://bucket/" + "x" * 300, WholeId(key_text("s3://bucket/" + "x" * 300))),
        ("https://alice:secret@example.com/a.csv?sig=1", WholeId("https://example.com/a.csv")),
        ("model://resnet\0", VersionName("model://resnet\ufffd@")),
        ("digits#999999999999999999", NumberedRun("digits", 999_999_999_999_999_999)),
    ],
)
def test_a_name_is_read_for_what_it_can_mean(name: str, meaning: object) -> None:
    assert parse_name(name) == meaning


@pytest.mark.parametrize(
    "name",
    ["", "#3", "digits#", "digits#x", "Digits#3", "datum://", "datum://abc%", "digits#9223372036854775808"],
)
def test_a_name_that_can_mean_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        parse_name(name)


def test_parameters_have_one_identity_whatever_their_order() -> None:
    lr = ParameterValue(name="lr", value=Value(number_value=0.5))
    epochs = ParameterValue(name="epochs", value=Value(number_value=5.0))
    sizes = ParameterValue(name="sizes", value=Value(list_value=ListValue(values=[Value(number_value=1.0)])))
    left_out = ParameterValue(name="seed")
    assert parameters_json([lr, epochs, sizes]) == '{"epochs":5,"lr":0.5,"sizes":[1]}'
    texts = ParameterValue(name="ü\n", value=Value(string_value='"a"'))
    flag = ParameterValue(name="flag", value=Value(bool_value=True))
    assert parameters_json([texts, flag]) == '{"flag":true,"ü\\n":"\\"a\\""}'
    large = ParameterValue(name="n", value=Value(number_value=1e22))
    assert parameters_json([large]) == canonical_json({"n": 10**22})
    assert parameters_json([left_out]) == '{"seed":null}'
    assert parameters_json([lr, epochs]) == parameters_json([epochs, lr])
    assert parameters_id(parameters_json([lr])) != parameters_id(parameters_json([epochs]))


def test_a_record_is_complete_when_the_log_has_what_the_agent_counted() -> None:
    assert completeness(FINISHED, ALL_THERE, 9).complete


def test_a_run_that_is_not_finished_has_no_complete_record() -> None:
    running = Run(state=RunState.RUN_STATE_RUNNING, attempts=[Attempt(number=1, telemetry=MARK)])
    assert not completeness(running, ALL_THERE, 9).complete


def test_a_run_that_never_got_an_attempt_is_complete_when_finished() -> None:
    assert completeness(Run(state=RunState.RUN_STATE_FINISHED), None, None).complete


def test_telemetry_on_its_way_is_named() -> None:
    had = GetRunSummaryResponse(log_line_count=38, metric_point_count=5, sample_count=7)
    verdict = completeness(FINISHED, had, 8)
    assert not verdict.complete
    assert verdict.missing == (
        "telemetry on its way: the log has batch 8 of 9",
        "telemetry: the log has 38 log lines, the agent counted 40",
    )


def test_a_record_of_a_summary_that_was_cut_says_how_to_get_the_rest() -> None:
    summary = GetRunSummaryResponse(metrics=[MetricLatest(name="loss"), MetricLatest(name="lr")])
    record = Record()
    assert list(add_results(record, summary)) == []
    summary.has_more_metrics = True
    sentence = "results: there are more than 2; QuerySeries has each by its name"
    assert list(add_results(Record(), summary)) == [sentence]
    assert list(record.results) == list(summary.metrics)


def test_a_record_without_an_answer_of_metrics_is_not_complete() -> None:
    assert not completeness(FINISHED, None, None).complete


def test_an_attempt_whose_agent_never_counted_is_not_complete() -> None:
    lost = Run(state=RunState.RUN_STATE_FINISHED, attempts=[Attempt(number=1)])
    verdict = completeness(lost, ALL_THERE, None)
    assert not verdict.complete
    assert "never said" in verdict.missing[0]
