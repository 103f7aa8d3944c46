"""What events about the log itself say to people."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.history.v1.events_pb2 import LogEventDisputed
from runyard.projection.v1.events_pb2 import ProjectionRebuilt
from runyard.run.v1.events_pb2 import (
    ProjectSecretRemoved,
    ProjectSecretSet,
    RunFinished,
    RunInputFetched,
    RunStarted,
)
from runyard.run.v1.types_pb2 import (
    Cause,
    CauseCode,
    FileList,
    Hardware,
    Input,
    InputFile,
    Outcome,
)
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.folding.sentences import sentence_of

FETCHED = InputFile(uri="https://example.com/late", path="late", sha256="ab" * 32, size_bytes=7)
DISPUTED = LogEventDisputed(event_type="runyard.price.set", event_position=7, reason="a slip")
TAKEN_BACK = LogEventDisputed(
    event_type="runyard.price.set", event_position=7, reason="it was right", withdrawn=True
)
REBUILT = ProjectionRebuilt(service="cost", projection="cost", position=90)
NEAR, FAR = InputFile(size_bytes=5, moved_bytes=0), InputFile(size_bytes=7, moved_bytes=7)
MANY = FileList(file_count=9_000)
WELL = Cause(code=CauseCode.CAUSE_CODE_SUCCEEDED)
NODE = Hardware(node_id="node-1")
REPLACED = ProjectionRebuilt(service="cost", projection="cost", position=90, differences_accepted=True)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (DISPUTED, "runyard.price.set at position 7 is disputed: a slip"),
        (TAKEN_BACK, "runyard.price.set at position 7 counts again: it was right"),
        (REBUILT, "read model cost/cost rebuilt to position 90"),
        (REPLACED, "read model cost/cost rebuilt to position 90; it differed, which was accepted"),
    ],
)
def test_what_was_said_of_the_log_is_a_sentence(message: Message, sentence: str) -> None:
    assert sentence_of(RecordedEvent(Envelope(), message)) == sentence


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (ProjectSecretSet(project="p", name="HF_TOKEN"), "secret HF_TOKEN set"),
        (ProjectSecretSet(name="HF_TOKEN", replaced=True), "secret HF_TOKEN got another value"),
        (ProjectSecretRemoved(name="registry:ghcr.io"), "secret registry:ghcr.io removed"),
        (
            RunInputFetched(input="late", file=FETCHED),
            "input late: https://example.com/late (abababab, 7 B) fetched on demand",
        ),
        (
            RunStarted(attempt=1, hardware=NODE, inputs=[Input(files=[NEAR, FAR])]),
            "attempt 1 started on node-1 with 2 input files, 7 bytes moved",
        ),
        (
            RunStarted(attempt=1, hardware=NODE, inputs=[Input(files=[NEAR])]),
            "attempt 1 started on node-1 with 1 input file of its cache",
        ),
        (
            RunStarted(attempt=1, hardware=NODE, inputs=[Input(files=[FETCHED])]),
            "attempt 1 started on node-1",
        ),
        (
            RunStarted(attempt=2, hardware=NODE, inputs=[Input(files=[NEAR, FAR], file_list=MANY)]),
            "attempt 2 started on node-1 with 9,000 input files, 7 bytes of the first 2 moved",
        ),
        (
            RunFinished(outcome=Outcome.OUTCOME_SUCCEEDED, cause=WELL, output_list=MANY),
            "finished, succeeded, 9,000 outputs",
        ),
    ],
)
def test_what_people_and_programs_did_is_a_sentence(message: Message, sentence: str) -> None:
    assert sentence_of(RecordedEvent(Envelope(), message)) == sentence


def test_what_a_later_version_may_say_is_told_by_its_number() -> None:
    finished = RunFinished(
        outcome=Outcome.ValueType(77), cause=Cause(code=CauseCode.ValueType(78), detail="hot")
    )
    assert sentence_of(RecordedEvent(Envelope(), finished)) == "finished, outcome 77 (cause code 78: hot)"
