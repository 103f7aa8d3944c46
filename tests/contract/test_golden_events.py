"""Every event at every schema version that was ever stored still decodes, and means what it meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runyard_contracts.registry import BY_NAME, EventType, event_type
from runyard_contracts.upcasting import STEPS
from tests.contract.golden_events import FOLDER
from tests.contract.golden_readings import reading_of, reading_path

SAMPLES = sorted(FOLDER.glob("*.json"))


def former_versions(event: EventType) -> range:
    return range(1, event.schema_version)


def test_every_event_has_a_stored_sample_of_every_version() -> None:
    wanted = {
        f"{event.name}@{version}.json"
        for event in BY_NAME.values()
        for version in (*former_versions(event), event.schema_version)
    }
    found = {path.name for path in SAMPLES}
    assert found == wanted, "run python -m tests.contract.golden_events and commit what it wrote"


def test_every_former_version_has_a_step_and_no_step_is_left_over() -> None:
    wanted = {(event.name, version) for event in BY_NAME.values() for version in former_versions(event)}
    assert set(STEPS) == wanted


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_stored_sample_still_decodes_to_what_it_meant(path: Path) -> None:
    sample = json.loads(path.read_text())
    known = event_type(sample["type"])
    if sample["schema_version"] != known.schema_version:
        reading = reading_path(sample)
        assert reading.exists(), "run python -m tests.contract.golden_readings and look at what it wrote"
        assert reading_of(sample) == json.loads(reading.read_text())
        return
    assert reading_of(sample) == sample["json"]
    data = bytes.fromhex(sample["data_hex"])
    assert len(known.decode(data).SerializeToString()) == len(data), "decoding and encoding lost something"
