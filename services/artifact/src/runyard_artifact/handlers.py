"""Carries the service's commands out: looks at store and log, lets the domain decide, appends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from google.protobuf.message import Message

from runyard.artifact.v1.types_pb2 import Artifact
from runyard.run.v1.types_pb2 import CodeRef
from runyard_artifact.blobs import Blob, Blobs
from runyard_artifact.domain.artifact import ARTIFACT, BeginUpload, CommitUpload
from runyard_artifact.domain.catalogue import artifact_of
from runyard_artifact.domain.code import CODE, RecordCodeSnapshot, TreeCounts
from runyard_artifact.domain.part_plan import Part, plan_parts
from runyard_artifact.domain.reference import object_key
from runyard_artifact.objects import ObjectStore
from runyard_artifact.origins import Origins
from runyard_contracts.envelope import Context
from runyard_contracts.ids import CommandId, Position, StreamName, sha256_of, stream_name
from runyard_contracts.manifest import Entry, ManifestError, parse_manifest
from runyard_core.clock import Clock
from runyard_core.decider import Decider
from runyard_core.errors import InvalidInput, NotFound, Rejected
from runyard_core.presign import SignedRequest
from runyard_eventlog.handler import Executed, execute, load
from runyard_eventlog.port import EventLog

StateT = TypeVar("StateT")
CommandT = TypeVar("CommandT")

MANIFEST_BYTES_MAX = 32 * 1024 * 1024
"""Largest manifest: about 250,000 files."""


@dataclass(frozen=True, slots=True)
class Request:
    """Who asked for a command, and how a repetition of it is known."""

    command_id: CommandId
    digest: bytes
    """SHA-256 of the request."""
    context: Context

    def caused_by(self, causation_id: str) -> Request:
        """Give the request with what its events follow from."""
        return replace(self, context=replace(self.context, causation_id=causation_id))


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """How a file gets into the store; no parts when it is there already."""

    parts: Sequence[tuple[Part, SignedRequest]] = ()
    upload_id: str = ""
    """Names an upload in parts; empty for one request."""


@dataclass(frozen=True, slots=True)
class FinishedUpload:
    """What a client says of an upload that is over."""

    command: CommitUpload
    upload_id: str
    part_etags: Sequence[str]


@dataclass(frozen=True, slots=True)
class Download:
    """How to get the bytes of a file."""

    request: SignedRequest
    size_bytes: int


class Handlers:
    """The service's commands, and the queries that ask the store."""

    def __init__(self, event_log: EventLog, objects: ObjectStore, clock: Clock) -> None:
        """Append to this log, look into this store."""
        self._log = event_log
        self._objects = objects
        self._blobs = Blobs(objects)
        self._clock = clock
        self._origins = Origins(event_log)

    async def begin_upload(
        self, command: BeginUpload, request: Request, *, in_one_request: bool = False
    ) -> UploadPlan:
        """Announce a file and sign its upload, unless the store has it.

        Raises:
            Rejected: the file is known with another size (SIZE_MISMATCH).
            IdReused, Unavailable: see ``execute``.
        """
        found = await self._blobs.find(command.sha256)
        if found is not None:
            if found.sha256 is not None:
                await self._blobs.verify(Blob(command.sha256, command.size_bytes))
            return UploadPlan()
        caused = request.caused_by(await self._origins.cause_of_upload(command.origin))
        await self._execute(artifact_stream(command.sha256), ARTIFACT, command, caused)
        key = object_key(command.sha256)
        parts = list(plan_parts(command.size_bytes, in_one_request=in_one_request))
        if len(parts) == 1:
            return UploadPlan(parts=[(parts[0], self._objects.presign_put(key, command.sha256))])
        upload_id = await self._objects.begin_multipart(key)
        signed = [(part, self._objects.presign_part(key, upload_id, part.number)) for part in parts]
        return UploadPlan(parts=signed, upload_id=upload_id)

    async def commit_upload(self, finished: FinishedUpload, request: Request) -> tuple[Artifact, Position]:
        """Verify the stored bytes and record the file for its origin; gives it with the event's position.

        Raises:
            Rejected: OBJECT_MISSING, CHECKSUM_MISMATCH or SIZE_MISMATCH; nothing is recorded.
            InvalidInput: the store does not have the parts (BAD_PARTS).
            IdReused, Conflict, Unavailable: see ``execute``.
        """
        command = finished.command
        stream = artifact_stream(command.sha256)
        if finished.upload_id:
            await self._objects.complete_multipart(
                command.object_key, finished.upload_id, finished.part_etags
            )
        history = await load(self._log, stream)
        state = ARTIFACT.fold(event.message for event in history)
        await self._blobs.verify(Blob(command.sha256, command.size_bytes), is_known=state.is_written)
        caused = request.caused_by(await self._origins.cause_of_writing(command.origin, history))
        executed = await self._execute(stream, ARTIFACT, command, caused)
        artifact = artifact_of(await load(self._log, stream))
        if artifact is None:
            raise AssertionError(f"file {command.sha256} was recorded and is not in the log")
        return artifact, executed.position

    async def find_missing(self, blobs: Iterable[Blob]) -> list[tuple[str, SignedRequest]]:
        """Give the blobs that the store does not have, each with a signed upload.

        Raises:
            Unavailable: the store does not answer (STORE_UNAVAILABLE).
        """
        sha256s = dict.fromkeys(blob.sha256 for blob in blobs)
        missing = await self._blobs.find_missing(sha256s)
        return [(sha256, self._objects.presign_put(object_key(sha256), sha256)) for sha256 in missing]

    async def record_code_snapshot(self, code: CodeRef, request: Request) -> Position:
        """Hold that a tree is stored whole, and record it; gives the position of its event.

        A tree that the log has already was looked through then, so that only its new reference is recorded.

        Raises:
            Rejected: OBJECT_MISSING, CHECKSUM_MISMATCH or SIZE_MISMATCH of manifest, patch or a file.
            InvalidInput: the manifest does not parse (BAD_MANIFEST).
            IdReused, Conflict, Unavailable: see ``execute``.
        """
        stream = stream_name("code", code.tree_sha256)
        counted = CodeRef()
        counted.CopyFrom(code)
        known = CODE.fold(event.message for event in await load(self._log, stream)).counts
        if known is None:
            entries = await self._read_manifest(code.tree_sha256)
            known = TreeCounts(len(entries), sum(entry.size_bytes for entry in entries))
            await self._blobs.verify_all({Blob(entry.sha256, entry.size_bytes) for entry in entries})
        counted.file_count, counted.size_bytes = known.file_count, known.size_bytes
        if code.patch_sha256 and await self._blobs.find(code.patch_sha256) is None:
            raise Rejected(
                f"the store has no patch {code.patch_sha256}; upload it first", code="OBJECT_MISSING"
            )
        executed = await self._execute(stream, CODE, RecordCodeSnapshot(counted), request)
        return executed.position

    async def download(self, sha256: str) -> Download:
        """Sign the download of a stored file.

        Raises:
            NotFound: the store has no such file, or an upload of it is not committed (FILE_NOT_FOUND).
            Unavailable: store or log does not answer.
        """
        found = await self._blobs.find(sha256)
        if found is None or (found.sha256 is None and not await self._is_written(sha256)):
            raise NotFound(f"there is no file {sha256} in the store", code="FILE_NOT_FOUND")
        return Download(self._objects.presign_get(object_key(sha256)), found.size_bytes)

    async def written(self, sha256: str) -> Artifact | None:
        """Give a file as the log has it now; None when it was never written.

        Raises:
            Unavailable: the log did not answer in time.
        """
        return artifact_of(await load(self._log, artifact_stream(sha256)))

    async def _execute(
        self,
        stream: StreamName,
        decider: Decider[StateT, CommandT, Message],
        command: CommandT,
        request: Request,
    ) -> Executed:
        return await execute(
            self._log,
            stream,
            decider,
            command,
            request.context,
            command_id=request.command_id,
            now=self._clock.now(),
            request_digest=request.digest,
        )

    async def _is_written(self, sha256: str) -> bool:
        return await self.written(sha256) is not None

    async def _read_manifest(self, tree_sha256: str) -> Sequence[Entry]:
        data = await self._objects.read(object_key(tree_sha256), MANIFEST_BYTES_MAX)
        if data is None:
            raise Rejected(
                f"the store has no manifest {tree_sha256} of up to {MANIFEST_BYTES_MAX} bytes; upload it",
                code="OBJECT_MISSING",
                metadata={"sha256": tree_sha256},
            )
        if sha256_of(data) != tree_sha256:
            raise Rejected(
                f"the bytes stored as manifest {tree_sha256} have another SHA-256", code="CHECKSUM_MISMATCH"
            )
        try:
            return parse_manifest(data)
        except ManifestError as error:
            raise InvalidInput(f"code {tree_sha256}: {error}", code="BAD_MANIFEST") from None


def artifact_stream(sha256: str) -> StreamName:
    """Give the stream of a file."""
    return stream_name("artifact", sha256)
