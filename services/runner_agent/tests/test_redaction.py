from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import example, given
from hypothesis import strategies as st

from runyard.agent.v1.agent_service_pb2 import AttemptExited, AttemptFinished, LeaseGrant, Secret
from runyard.metric.v1.batches_pb2 import LogStream
from runyard.run.v1.types_pb2 import Cause, Environment, EnvironmentVariable
from runyard_agent.attempt_store import AttemptStore
from runyard_agent.config_files import variables
from runyard_agent.domain.attempt import AttemptState
from runyard_agent.domain.batching import LogLine, metric_readings
from runyard_agent.domain.line_assembler import LINE_BYTES_MAX, LineAssembler
from runyard_agent.domain.metric_lines import MetricReading
from runyard_agent.domain.redaction import REDACTED, Redaction
from runyard_agent.domain.secret_free import secret_free, secret_free_struct

SECRET = "tøp-secret"


def _shown(redaction: Redaction, content: bytes, chunk_bytes: int) -> list[str]:
    """Read a file as the agent does, in chunks."""
    assembler = LineAssembler(redaction=redaction)
    lines = []
    for start in range(0, len(content), chunk_bytes):
        lines += assembler.feed(content[start : start + chunk_bytes])
    lines += assembler.finish()
    return [redaction.of(line.text) for line in lines]


@given(
    before=st.integers(LINE_BYTES_MAX - 40, LINE_BYTES_MAX + 5),
    after=st.integers(0, 70_000),
    chunk_bytes=st.sampled_from([7_001, 65_536, 262_144]),
)
@example(before=0, after=LINE_BYTES_MAX, chunk_bytes=1_000)
@example(before=LINE_BYTES_MAX - 5, after=0, chunk_bytes=1_000)
def test_a_value_is_taken_out_wherever_a_long_line_and_a_chunk_are_cut(
    before: int, after: int, chunk_bytes: int
) -> None:
    redaction = Redaction([SECRET])
    content = b"x" * before + SECRET.encode() + b"y" * after + b"\nnext\n"
    lines = _shown(redaction, content, chunk_bytes)
    assert "".join(lines) == "x" * before + REDACTED + "y" * after + "next"
    assert all(len(line.encode()) <= LINE_BYTES_MAX for line in lines)


@given(st.lists(st.sampled_from(["abcd", "cdef", "efabcdab", "x", "é"]), max_size=12).map("".join))
def test_values_that_overlap_leave_nothing_of_themselves(text: str) -> None:
    shown = Redaction(["abcd", "cdef", "efabcdab"]).of(text)
    assert not any(value in shown for value in ("abcd", "cdef"))
    assert Redaction(["abcd"]).of("1abcdef2") == f"1{REDACTED}ef2"
    assert Redaction(["abcd", "cdef"]).of("1abcdef2") == f"1{REDACTED}2"


def test_a_value_of_several_lines_is_known_by_each_of_them_and_in_json() -> None:
    key = "-----BEGIN KEY-----\nMIIEabc\n}\n"
    redaction = Redaction([key, 'quo"ted'])
    assert redaction.of("MIIEabc") == REDACTED
    assert redaction.of(json.dumps({"key": key, "word": 'quo"ted'})).count(REDACTED) == 2
    assert redaction.of("}") == "}"


@given(st.binary(max_size=5), st.text(min_size=4, max_size=20), st.binary(max_size=5))
def test_a_value_in_base64_is_found_wherever_it_stands(before: bytes, value: str, after: bytes) -> None:
    value = f"k/?~{value}"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(before + value.encode() + after).decode()
        shown = Redaction([value]).of(text)
        # At both ends a character may stand for a bit of the value, and of what is beside it; and "==".
        length = len(shown.partition(REDACTED)[0]) + len(shown.partition(REDACTED)[2])
        assert REDACTED in shown
        assert length <= len(encode(before)) + len(encode(after)) + 4


def test_a_value_is_found_as_an_address_and_as_digits() -> None:
    redaction = Redaction(["pass word&/é"])
    for text in (
        "https://x/?p=pass%20word%26%2F%C3%A9&q=1",
        "p=pass+word%26%2F%C3%A9",
        "70617373 7061737320776f7264262fc3a9",
        "70617373 7061737320776F7264262FC3A9",
    ):
        assert REDACTED in redaction.of(text)
        assert "word" not in redaction.of(text)


def test_a_value_is_found_as_an_address_that_keeps_its_signs() -> None:
    """As ``quote`` of Python, ``encodeURIComponent`` and a client that mends an address write it."""
    redaction = Redaction(["a/b+c(d)e=f g"])
    for text in ("a/b%2Bc%28d%29e%3Df%20g", "a%2Fb%2Bc(d)e%3Df%20g", "a/b+c(d)e=f%20g"):
        assert redaction.of(f"https://x/?k={text}&q=1") == f"https://x/?k={REDACTED}&q=1"


def test_a_metric_line_that_holds_a_value_keeps_its_other_values() -> None:
    redaction = Redaction(["12345678", "hunter/2", "0.2345", "7e55"])
    said = {
        "loss": 2.5, "pin": 12345678, "share": 0.2345, "who": "hunter/2", "hunter/2": 1, "flag": True,
        "list": [12345678, {"hunter/2": ["xhunter/2", None, 1.5]}],
    }  # fmt: skip
    # As PHP writes it; the second one's text is no value, what it says is one.
    line, other = json.dumps(said).replace("hunter/2", "hunter\\/2"), '{"k": "7\\u006555", "m": 1}'
    lines = [LogLine(text, LogStream.LOG_STREAM_STDOUT, 7) for text in (line, other)]

    first, second = (found.reading for found in metric_readings(1, lines, redaction))

    assert dict(first.numbers) == {"loss": 2.5, REDACTED: 1.0}
    assert {name: json.loads(value) for name, value in first.json_values.items()} == {
        "pin": REDACTED, "share": REDACTED, "who": REDACTED, "flag": True,
        "list": [REDACTED, {REDACTED: [f"x{REDACTED}", None, 1.5]}],
    }  # fmt: skip
    assert second == MetricReading({"m": 1.0}, {"k": f'"{REDACTED}"'})


def test_a_metric_that_is_too_deep_to_be_looked_through_is_hidden() -> None:
    """How deep that is depends on the interpreter; what lies deeper still is no metric."""
    told = []
    for depth in (300, 900, 1_500, 3_000):
        deep = '{"a": ' + "[" * depth + '"secret"' + "]" * depth + ', "b": 1}'
        line = LogLine(deep, LogStream.LOG_STREAM_STDOUT, 7)
        told += [found.reading for found in metric_readings(1, [line], Redaction(["secret"]))]
    assert MetricReading({"b": 1.0}, {"a": f'"{REDACTED}"'}) in told
    assert "secret" not in str(told)


@pytest.mark.parametrize("values", [(), ("", "abc")])
def test_without_values_worth_hiding_everything_stays(values: tuple[str, ...]) -> None:
    redaction = Redaction(values)
    assert (redaction.of("abc"), redaction.longest_bytes) == ("abc", 0)
    assert redaction.cut(b"abcdef", 3) == 3


def test_a_report_names_secrets_and_holds_no_value() -> None:
    redaction = Redaction([SECRET])
    environment = Environment(
        variables=[
            EnvironmentVariable(name="TOKEN", value=SECRET),
            EnvironmentVariable(name="URL", value=f"https://{SECRET}@example.com"),
            EnvironmentVariable(name="LANG", value="C"),
        ]
    )
    shown = secret_free(environment, {"TOKEN"}, redaction)
    assert isinstance(shown, Environment)
    assert {each.name: each.value for each in shown.variables} == {
        "TOKEN": "",
        "URL": "https://***@example.com",
        "LANG": "C",
    }
    assert environment.variables[0].value == SECRET
    cause = Cause(detail=f"cannot fetch {SECRET}")
    for fact in (cause, AttemptExited(cause=cause), AttemptFinished(cause=cause)):
        content = secret_free(fact, set(), redaction).SerializeToString()
        assert SECRET.encode() not in content
        assert REDACTED.encode() in content


def test_secrets_are_variables_and_what_the_run_asks_for_goes_before_them() -> None:
    grant = LeaseGrant(secrets=[Secret(name="A", value="secret-a"), Secret(name="B", value="secret-b")])
    grant.spec.environment_variables.add(name="B", value="asked")
    found = variables(grant)
    assert (found["A"], found["B"]) == ("secret-a", "asked")


def test_an_agent_that_was_killed_still_knows_the_secrets_and_nobody_else_may_read_them(
    tmp_path: Path,
) -> None:
    grant = LeaseGrant(run_id="r1", attempt=1, secrets=[Secret(name="A", value=SECRET)])
    AttemptStore(tmp_path).create(grant, AttemptState())
    (record,) = AttemptStore(tmp_path).load()
    assert record.grant.secrets == grant.secrets
    holding = [
        path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert [path.stat().st_mode & 0o777 for path in holding] == [0o600]
    for _ in record.removing():
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_of_an_output_holds_no_value_at_any_depth() -> None:
    said = {"note": f"a {SECRET}", SECRET: [1, True, None, {"in": [SECRET]}], "pin": 48151623, "epoch": 4}
    shown = secret_free_struct(ParseDict(said, Struct()), Redaction([SECRET, "48151623"]))
    assert MessageToDict(shown) == {
        "note": f"a {REDACTED}",
        REDACTED: [1, True, None, {"in": [REDACTED]}],
        "pin": REDACTED,
        "epoch": 4,
    }
