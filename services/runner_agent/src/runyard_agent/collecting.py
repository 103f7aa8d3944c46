"""The end of an attempt's outputs: what is left is stored, and what the program says of them is applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runyard.artifact.v1.registry_types_pb2 import DescribedOutput
from runyard.run.v1.types_pb2 import OutputFile
from runyard_agent.blocking import BlockingPool
from runyard_agent.domain.secret_free import secret_free_struct
from runyard_agent.live_outputs import LiveOutput, stored_live, stored_versions
from runyard_agent.output_metadata import OutputMetadata, read_metadata
from runyard_agent.output_record import record_bytes
from runyard_agent.output_uploads import FILES_AT_ONCE, store_files
from runyard_agent.outputs import (
    FoundFile,
    OutputsIncomplete,
    OutputsOf,
    list_outputs,
)
from runyard_contracts.ids import deterministic_id, sha256_of
from runyard_core.errors import RunyardError

DESCRIBED_MAX = 10_000
DESCRIBED_BYTES_MAX = 3 << 20
"""Of one attempt; beyond them metadata is not applied, and somebody is told."""
LIST_BYTES_MAX = 8 << 20
"""Of the list of all outputs; what was stored while the program ran is listed whatever it takes."""

_SENTENCES_MAX = 100


async def collect(of: OutputsOf) -> list[OutputFile]:
    """Store every file of an outputs folder and apply its metadata; gives all outputs by path, live ones too.

    A symlink to a file inside the folder is stored as that file; nothing outside is ever read. A missing
    folder has no files. Call it again after a crash of the agent.

    Raises:
        OutputsIncomplete: OUTPUT_UNAVAILABLE, after everything that can be stored has been.
    """
    pool = BlockingPool("outputs", thread_count=FILES_AT_ONCE)
    try:
        live = await pool.run(None, stored_live, of)
        of = replace(of, versions=await pool.run(None, stored_versions, of))
        names = {output.file.path for output in live}
        listing = await pool.run(None, list_outputs, of.folder, lambda path: of.recorded_name(path) in names)
        _tell_first(of, (*listing.skipped, *listing.refused))
        paths = [str(file.path) for file in listing.files]
        metadata = await pool.run(None, read_metadata, of.folder, paths, names, of.tell, of.recorded_name)
        files = [file for file in listing.files if str(file.path) not in metadata.control_files]
        files = _within_list(of, files, live, listing.refused)
        stored = await store_files(of, pool, files, listing.refused)
    finally:
        pool.close()
    stored = _all_of(stored, live)
    described = _described(of, stored, live, metadata)
    if described and not await _apply(of, described):
        listing.refused.append("the metadata of outputs is not applied")
    if listing.refused:
        raise OutputsIncomplete(listing.refused, stored)
    return stored


def _within_list(
    of: OutputsOf, files: Sequence[FoundFile], live: Sequence[LiveOutput], refused: list[str]
) -> list[FoundFile]:
    """Give as many files as one list holds, in the order of their names; of the others somebody is told."""
    room = LIST_BYTES_MAX - sum(record_bytes(output.file.path) for output in live)
    for index, file in enumerate(files):
        room -= record_bytes(str(file.path))
        if room < 0:
            sentence = (
                f"{len(files) - index} outputs from {str(file.path)!r} on are not stored: one list holds "
                f"{index + len(live)} of these; pack them into fewer files"
            )
            of.tell(sentence)
            refused.append(sentence)
            return list(files[:index])
    return list(files)


def _tell_first(of: OutputsOf, sentences: Sequence[str]) -> None:
    for sentence in sentences[:_SENTENCES_MAX]:
        of.tell(sentence)
    if len(sentences) > _SENTENCES_MAX:
        of.tell(f"and {len(sentences) - _SENTENCES_MAX} more outputs like these")


def _all_of(stored: Sequence[OutputFile], live: Sequence[LiveOutput]) -> list[OutputFile]:
    """Give every version of every path once, the newest of a path last."""
    found: dict[tuple[str, str], OutputFile] = {}
    for file in (*(output.file for output in live), *stored):
        found.pop((file.path, file.sha256), None)
        found[file.path, file.sha256] = file
    return sorted(found.values(), key=lambda file: file.path)


def _described(
    of: OutputsOf, stored: Sequence[OutputFile], live: Sequence[LiveOutput], metadata: OutputMetadata
) -> list[DescribedOutput]:
    by_version = {(output.file.path, output.file.sha256): output.metadata for output in live}
    newest = {file.path: file.sha256 for file in stored}
    described = []
    for file in stored:
        then = by_version.get((file.path, file.sha256))
        is_newest = newest[file.path] == file.sha256
        whole = (metadata.of_newest if is_newest else metadata.of_older)(file.path, then)
        said = secret_free_struct(whole, of.redaction)
        if said.fields:
            described.append(
                DescribedOutput(path=file.path, sha256=file.sha256, size_bytes=file.size_bytes, metadata=said)
            )
    return described


async def _apply(of: OutputsOf, described: Sequence[DescribedOutput]) -> bool:
    sizes = sum(output.ByteSize() for output in described)
    if len(described) > DESCRIBED_MAX or sizes > DESCRIBED_BYTES_MAX:
        of.tell(
            f"the metadata of outputs is not applied: of {len(described)} files with {sizes} bytes, want at "
            f"most {DESCRIBED_MAX} files and {DESCRIBED_BYTES_MAX} bytes"
        )
        return False
    digest = sha256_of(b"".join(output.SerializeToString(deterministic=True) for output in described))
    request_id = deterministic_id("DescribeOutputs", of.origin.run_id, of.origin.attempt, digest)
    try:
        answer = await of.artifact_client.describe_outputs(request_id, of.origin, described)
    except RunyardError as error:
        of.tell(f"the metadata of outputs is not applied: {error}")
        return False
    for problem in answer.problems:
        of.tell(problem)
    if answer.made:
        of.tell(f"made {', '.join(answer.made)}")
    return True
