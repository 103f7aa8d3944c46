"""Lists of files that are too long for one event: stored by their hash, and named by it in the record."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from runyard.run.v1.types_pb2 import FileList, InputFile, OutputFile
from runyard_agent.artifact_client import ArtifactClient
from runyard_contracts.file_list import ListedFile, format_file_list


def unstored_list(files: Sequence[InputFile | OutputFile]) -> FileList:
    """Say how many files there are, for a record that cannot name them all."""
    return FileList(file_count=len(files), size_bytes=sum(file.size_bytes for file in files))


async def stored_list(artifact_client: ArtifactClient, files: Sequence[InputFile | OutputFile]) -> FileList:
    """Store the list of files, and name it.

    Raises:
        RunyardError: as the store or the service says.
    """
    listed = unstored_list(files)
    content = format_file_list(ListedFile(file.path, file.sha256, file.size_bytes) for file in files)
    listed.sha256 = hashlib.sha256(content).hexdigest()
    await artifact_client.store_blob(content, listed.sha256)
    return listed
