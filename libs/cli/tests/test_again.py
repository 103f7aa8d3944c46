"""A run again, and two records beside each other."""

from __future__ import annotations

import pytest

from runyard.artifact.v1.types_pb2 import Artifact, ArtifactOrigin, Origin
from runyard.metric.v1.metric_service_pb2 import MetricLatest
from runyard.record.v1.record_service_pb2 import Record
from runyard.run.v1.types_pb2 import (
    CodeRef,
    Environment,
    Executor,
    Input,
    InputFile,
    Outcome,
    Package,
    Run,
    RunSpec,
    RunState,
)
from runyard_cli.again import spec_again
from runyard_cli.commands.reproduce import require_whole
from runyard_cli.comparison import Compared, Difference, differences
from runyard_cli.difference_lines import difference_lines

WEB = "https://example.com/set.csv"
HASH = "ab" * 32
ALMOST = "1" * 63 + "2"


def record(run_id: str = "r1", **boxes: object) -> Record:
    spec = RunSpec(step="train", command_lines=["python train.py"], executor=Executor.EXECUTOR_AUTO)
    run = Run(run_id=run_id, project="digits", number=1, spec=spec, state=RunState.RUN_STATE_FINISHED)
    run.outcome = Outcome.OUTCOME_SUCCEEDED
    return Record(run=run, **boxes)  # type: ignore[arg-type]


def output(run_id: str, path: str, sha256: str) -> Artifact:
    origins = [
        ArtifactOrigin(origin=Origin(run_id="another", path="elsewhere")),
        ArtifactOrigin(origin=Origin(run_id=run_id, path=path)),
    ]
    return Artifact(sha256=sha256, size_bytes=3, origins=origins)


def test_a_run_again_gets_the_files_that_the_first_one_found() -> None:
    asked = record()
    asked.run.spec.inputs.add(name="set", uris=[WEB])
    asked.run.spec.inputs.add(name="later", uris=[WEB], on_demand=True)
    found = InputFile(uri=WEB, path="set.csv", sha256=HASH, size_bytes=3, moved_bytes=3)
    asked.datasets.extend(
        Input(name=name, uris=[WEB], files=[found]) for name in ("set", "later", "runyard-checkpoints")
    )

    again = spec_again(asked)

    assert [each.name for each in again.inputs] == ["set", "later"]
    assert [(file.uri, file.sha256) for file in again.inputs[0].files] == [(WEB, HASH)]
    assert not again.inputs[0].files[0].HasField("moved_bytes")
    assert not again.inputs[1].files
    assert not asked.run.spec.inputs[0].files


def test_a_run_again_gets_the_very_image_and_executor() -> None:
    digest = f"ghcr.io/team/train@sha256:{HASH}"
    asked = record(
        environment=Environment(
            executor=Executor.EXECUTOR_DOCKER,
            image="ghcr.io/team/train:latest",
            image_id="sha256:1",
            image_repo_digests=[digest],
        )
    )
    asked.run.spec.image = "ghcr.io/team/train:latest"
    assert (spec_again(asked).image, spec_again(asked).executor) == (digest, Executor.EXECUTOR_DOCKER)
    asked.environment.ClearField("image_repo_digests")
    assert spec_again(asked).image == "sha256:1"
    asked.environment.executor = Executor.EXECUTOR_PROCESS
    assert spec_again(asked).image == "ghcr.io/team/train:latest"


def test_a_run_again_does_not_make_a_name_of_an_erased_one() -> None:
    asked = record()
    asked.run.spec.code.git_author = "[erased]"
    assert spec_again(asked).code.git_author == ""


def test_what_is_the_same_is_no_difference_although_its_bytes_are_elsewhere_too() -> None:
    first = record("r1", outputs=[output("r1", "model.npz", HASH)])
    second = record("r2", outputs=[output("r2", "model.npz", HASH)])
    assert differences(Compared(first, {}), Compared(second, {})) == []


def test_each_box_says_what_differs() -> None:
    first = record(
        "r1",
        code=CodeRef(tree_sha256="a" * 64),
        environment=Environment(
            packages=[Package(name="numpy", version="2.4"), Package(name="x", version="1")]
        ),
        outputs=[output("r1", "model.npz", "1" * 64)],
        results=[MetricLatest(name="loss", value=0.1, point_count=1, min=0.1, max=0.1)],
    )
    second = record(
        "r2",
        code=CodeRef(tree_sha256="b" * 64),
        environment=Environment(packages=[Package(name="numpy", version="2.5")]),
        outputs=[output("r2", "model.npz", ALMOST)],
        results=[MetricLatest(name="loss", value=0.1 + 1e-16, point_count=1, min=0.1, max=0.1)],
    )
    second.run.outcome = Outcome.OUTCOME_FAILED
    found = differences(Compared(first, {"train.py": "1" * 64}), Compared(second, {"train.py": ALMOST}))
    assert found == [
        Difference("end", "state", "succeeded", "failed"),
        Difference("training code", "tree", "a" * 64, "b" * 64),
        Difference("training code", "train.py", "SHA-256 " + "1" * 64, "SHA-256 " + ALMOST),
        Difference("environment", "package numpy", "2.4", "2.5"),
        Difference("environment", "package x", "1", ""),
        Difference("model", "model.npz", "3 B, SHA-256 " + "1" * 64, "3 B, SHA-256 " + ALMOST),
        Difference(
            "results", "loss", "0.1 (1 point, 0.1 to 0.1)", "0.1000000000000001 (1 point, 0.1 to 0.1)"
        ),
    ]


def test_hashes_are_whole_where_they_are_compared_and_short_where_people_read_them() -> None:
    found = [Difference("model", "model.npz", "3 B, SHA-256 " + "1" * 64, "")]
    assert list(difference_lines(found)) == [" 7 model            model.npz: 3 B, SHA-256 111111111111 -> -"]


def test_nothing_is_said_to_be_reproduced_of_a_record_that_is_not_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    require_whole(record())
    with pytest.raises(SystemExit) as ended:
        require_whole(record(missing=["outputs: the artifact service does not answer"]))
    assert ended.value.code == 1
    assert "digits#1 cannot be compared: outputs: the artifact" in capsys.readouterr().err
