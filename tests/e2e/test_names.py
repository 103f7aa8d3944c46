"""Names that a run gives its outputs: listed, and resolved as inputs of the next run, as recorded."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(120), pytest.mark.xdist_group("yard")]


async def test_a_dataset_that_a_run_made_is_the_input_of_the_next(yard: Yard, clients: Clients) -> None:
    made = json.loads(yard.cli("run", "collect", "--executor", "process", "--output", "json").stdout)
    await clients.complete_record(made["run"]["run_id"])

    listed = json.loads(yard.cli("datasets", "cats", "--output", "json").stdout)
    assert [(each["version"], each["file_count"]) for each in listed["versions"]] == [("v1", "1")]
    assert "net" in yard.cli("models").stdout
    shown = yard.cli("models", "net/1").stdout
    sha256 = hashlib.sha256(b"cat").hexdigest()
    assert f"datum://{sha256}" in shown

    used = json.loads(
        yard.cli(
            "run", "count", "--executor", "process", "--input", "words=dataset://cats/v1", "--output", "json"
        ).stdout
    )
    record = await clients.complete_record(used["run"]["run_id"])
    [file] = record.datasets[0].files
    assert (file.uri, file.sha256, file.path) == ("dataset://cats/v1", sha256, "cat.jpg")
    assert file.properties["cute"] is True

    for reference in ("datum://cat", "model://net/1"):
        assert yard.cli("get", reference, "-o", "-").stdout == "cat"
    assert f"file cat.jpg {sha256[:12]}" in yard.cli("trace", "datum://cat").stdout
    assert "project tiny has no such alias" in yard.cli("get", "datum://dog", expect=3).stderr
    assert yard.cli("datasets", "dogs", expect=3).stderr.endswith("[DATASET_NOT_FOUND]\n")
    assert yard.cli("models", "dogs", expect=3).stderr.endswith("[MODEL_NOT_FOUND]\n")
