"""Every event at every schema version that was ever stored still decodes, and means what it meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import json_format

from runyard_contracts import upcasting
from runyard_contracts.registry import BY_NAME, event_type
from tests.contract.golden_events import FOLDER, sample_path

SAMPLES = sorted(FOLDER.glob("*.json"))


def test_every_event_has_a_stored_sample_at_its_present_version() -> None:
    missing = [event.name for event in BY_NAME.values() if not sample_path(event).exists()]
    assert missing == [], "run python -m tests.contract.golden_events and commit what it wrote"


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_stored_sample_still_decodes_to_what_it_meant(path: Path) -> None:
    sample = json.loads(path.read_text())
    known = event_type(sample["type"])
    data = upcasting.upcast(
        sample["type"], sample["schema_version"], known.schema_version, bytes.fromhex(sample["data_hex"])
    )
    decoded = known.message_class.FromString(data)
    shown = json_format.MessageToDict(decoded, preserving_proto_field_name=True)
    if sample["schema_version"] == known.schema_version:
        assert shown == sample["json"]
    else:
        assert shown
    assert not _unknown_bytes(decoded.SerializeToString(), data)


def _unknown_bytes(again: bytes, stored: bytes) -> bool:
    """Say whether decoding and encoding lost something."""
    return len(again) != len(stored)
