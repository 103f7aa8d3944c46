"""Files of this machine by their hash, as the yard knows them."""

from __future__ import annotations

from pathlib import Path

from runyard_cli.output import is_json, note
from runyard_cli.transfer import Progress
from runyard_client.files import hash_file


def file_sha256(path: Path) -> str:
    """Hash a file of this machine, and say what came of it.

    Raises:
        LocalError: as ``hash_file``.
    """
    progress = Progress(f"hashing {path.name}", path.stat().st_size)
    try:
        sha256 = hash_file(path, progress.add).sha256
    finally:
        progress.close()
    if not is_json():
        note(f"{path} has SHA-256 {sha256}")
    return sha256
