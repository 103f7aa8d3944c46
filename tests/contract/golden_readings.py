"""Writes down what samples of former versions read as today: ``python -m tests.contract.golden_readings``.

A person looks at a new reading once; from then on CI compares with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts.envelope import unwrap
from runyard_contracts.registry import BY_NAME
from tests.contract.golden_events import FOLDER

READINGS = FOLDER / "readings"


def reading_path(sample: dict[str, Any]) -> Path:
    """Where it is kept what a sample reads as at the event's present version."""
    present = BY_NAME[sample["type"]].schema_version
    return READINGS / f"{sample['type']}@{sample['schema_version']}-as-{present}.json"


def reading_of(sample: dict[str, Any]) -> dict[str, Any]:
    """Read a sample as every reader of the log does."""
    envelope = Envelope(
        type=sample["type"], schema_version=sample["schema_version"], data=bytes.fromhex(sample["data_hex"])
    )
    return json_format.MessageToDict(unwrap(envelope), preserving_proto_field_name=True)


def main() -> int:
    """Write the readings that are not there yet."""
    for sample in [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]:
        path = reading_path(sample)
        if sample["schema_version"] == BY_NAME[sample["type"]].schema_version or path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(reading_of(sample), indent=1) + "\n")
        sys.stdout.write(f"wrote {path.name}: look at it\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
