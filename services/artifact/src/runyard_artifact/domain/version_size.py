"""How many files a version of a dataset or model may have: all of them are named in one event."""

from __future__ import annotations

from collections.abc import Sequence

from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard_core.errors import Rejected

BYTES_MAX = 950_000
"""Largest list of files, each with the name of its version, as it is in the spec of a run that asks for it.
That holds 1,000,000 bytes."""

_BYTES_OF_EACH = 8
"""What a list adds to an entry: lengths and field numbers."""


def check_size(files: Sequence[VersionFile], name: str, code: str) -> None:
    """Hold that a run can name the files of a version, and an event can.

    Args:
        files: of the version.
        name: the version's own: "dataset://images/v3".
        code: of the error.

    Raises:
        Rejected: with the code; the files' paths, hashes and names take more.
    """
    each = len(name.encode()) + _BYTES_OF_EACH
    size_bytes = sum(file.ByteSize() + each for file in files)
    if size_bytes > BYTES_MAX:
        raise Rejected(
            f"{name} would have {len(files)} files, whose names and hashes take {size_bytes} bytes; want at "
            f"most {BYTES_MAX}: pack them into fewer files",
            code=code,
        )
