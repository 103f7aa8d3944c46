from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_core.errors import InvalidInput
from runyard_runspec import Finding, Severity, lint_text, parse_config

STEP = "- step:\n    name: train\n    image: x\n    command: python train.py\n"


def only(text: str) -> Finding:
    findings = lint_text(text)
    assert len(findings) == 1, findings
    return findings[0]


def test_good_file_has_no_findings() -> None:
    assert lint_text(STEP) == []


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the file is empty: write at least one step (- step:)"),
        ("step:\n  name: x", 1, "the file must be a list of items: begin each with a dash (- step:)"),
        (STEP + "    imagee: y\n", 5, "step train: unknown key 'imagee': did you mean 'image'?"),
        (STEP + "    zebra: y\n", 5, "step train: unknown key 'zebra': remove it"),
        ("- step:\n    name: train\n    image: x\n", 1, "step train: lacks 'command': add it"),
        ("- step:\n    name: a\n    image: 3\n    command: x\n", 3, "step a: image cannot be 3: want text"),
        (
            "- step:\n    name: a\n    image: b\n    command: 3\n",
            4,
            "step a: command cannot be 3: want text or a list",
        ),
        (
            STEP + "    parameters:\n      - name: n\n        type: int\n",
            7,
            "step train, parameter n: type cannot be 'int': want one of flag, float, integer, string: did",
        ),
        (
            STEP + "    inputs:\n      data: 1\n",
            5,
            "step train: inputs cannot be a mapping: want a list",
        ),
        (
            "- step:\n  name: a\n  image: b\n  command: c\n",
            1,
            "step is empty: want a mapping (key: value); indent what belongs to it deeper than 'step'",
        ),
        (
            STEP + "    time-limit: '10'\n",
            5,
            "step train: time-limit cannot be '10': want seconds (90) or units of s, m, h, d, w (\"1h 30m\")",
        ),
        (STEP + "    time-limit: -1\n", 5, "step train: time-limit cannot be -1: want seconds (90)"),
        (STEP + "    time-limit: 0s\n", 5, "step train: time-limit cannot be '0s': want seconds (90)"),
        (STEP + f"    time-limit: {10**15}\n", 5, f"step train: time-limit cannot be {10**15}: want seconds"),
        (STEP + "    time-limit: 99999999999w\n", 5, "step train: time-limit cannot be '99999999999w': "),
        (STEP + "    upload-store: " + "x" * 65, 5, "step train: upload-store is longer than 64 characters"),
    ],
)
def test_error_has_its_line_and_the_fix(text: str, line: int, message: str) -> None:
    finding = only(text)
    assert (finding.severity, finding.line) == (Severity.ERROR, line)
    assert finding.message.startswith(message)
    with pytest.raises(InvalidInput) as caught:
        parse_config(text, "valohai.yaml")
    assert caught.value.message == f"valohai.yaml:{line}: {finding.message}"


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        (STEP + STEP, 6, "DUPLICATE_NAME"),
        (STEP + "- stpe:\n    name: x\n", 5, "UNKNOWN_ITEM"),
        (STEP + "    image: y\n", 5, "DUPLICATE_KEY"),
        (STEP.replace("train.py", "train.py {parameter:epochs}"), 4, "UNKNOWN_PLACEHOLDER"),
        (STEP.replace("python train.py", "[]"), 4, "EMPTY_COMMAND"),
        (STEP.replace("python train.py", "['', '  ']"), 4, "EMPTY_COMMAND"),
        (STEP + "    inputs:\n      - name: a\n      - name: a\n", 7, "DUPLICATE_NAME"),
        (STEP + "    inputs:\n      - name: a\n        default: gs://bucket/a\n", 6, "BAD_INPUT_URI"),
        (
            STEP + "    parameters:\n      - name: n\n        type: integer\n        default: abc\n",
            8,
            "CONFIG_DOUBTFUL",
        ),
    ],
)
def test_warning_has_its_line(text: str, line: int, code: str) -> None:
    finding = only(text)
    assert (finding.severity, finding.line, finding.code) == (Severity.WARNING, line, code)


@pytest.mark.parametrize("condition", ["__import__('os').remove('x')", "abs(loss) < 1", "loss <"])
def test_expression_that_is_none_is_an_error_with_its_line(condition: str) -> None:
    finding = only(STEP + f"    stop-condition: {condition}\n")
    assert (finding.severity, finding.line) == (Severity.ERROR, 5)
    assert "stop-condition" in finding.message


def test_a_default_with_a_placeholder_is_judged_when_it_is_filled() -> None:
    inputs = "    parameters:\n      - name: n\n    inputs:\n      - name: a\n"
    assert lint_text(STEP + inputs + '        default: "{parameter:n}/a"\n') == []


def test_approval_action_of_the_vendors_documentation_is_fine() -> None:
    action = "{when: node-complete, if: metadata.a >= 1, then: require-approval}"
    text = STEP + (
        "- pipeline:\n    name: p\n    edges: []\n    nodes:\n"
        f"      - {{name: n, type: execution, step: train, actions: [{action}]}}\n"
    )
    assert lint_text(text) == []


def test_findings_come_in_the_order_of_the_lines() -> None:
    text = STEP + "    zebra: 1\n    inputs: 3\n- step:\n    nme: x\n"
    assert [finding.line for finding in lint_text(text)] == sorted(f.line for f in lint_text(text))


def test_control_of_the_agent_that_does_nothing_here_is_said() -> None:
    text = STEP + "    environment-variables:\n      - {name: VH_GPUS, default: '1'}\n"
    assert lint_text(text) == []
    finding = only(text + "      - {name: VH_DOCKER_NETWORK, default: host}\n      - {name: VH_CLEAN}\n")
    assert (finding.line, finding.severity, finding.code) == (7, Severity.WARNING, "CONTROL_NOT_HEEDED")
    assert "VH_DOCKER_NETWORK is not heeded: the network of containers is set by" in finding.message


def test_part_of_a_step_that_does_nothing_here_is_said() -> None:
    finding = only(STEP + "    environment: aws-eu-west-1-g4dn-xlarge\n")
    assert (finding.line, finding.severity, finding.code) == (5, Severity.WARNING, "KEY_NOT_HEEDED")
    assert "'environment' is not heeded here: a run goes where what it needs is free" in finding.message


def test_broken_yaml_is_a_finding() -> None:
    assert only("- a\n b: [").code == "CONFIG_SYNTAX"


_scalar = st.one_of(st.none(), st.booleans(), st.integers(-2, 99), st.text("ab{}: 1h", max_size=6))
_keys = st.sampled_from(
    [
        "step",
        "pipeline",
        "name",
        "image",
        "command",
        "inputs",
        "parameters",
        "type",
        "default",
        "nodes",
        "edges",
        "x",
    ]
)
_data = st.recursive(
    _scalar,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_keys, inner, max_size=4)),
    max_leaves=25,
)


@given(st.lists(st.dictionaries(_keys, _data, max_size=3), max_size=3))
def test_lint_never_raises_and_agrees_with_parse(data: object) -> None:
    import json

    text = json.dumps(data)
    errors = [finding for finding in lint_text(text) if finding.severity is Severity.ERROR]
    try:
        parse_config(text)
    except InvalidInput:
        assert errors
