"""Many small files at once: one look at the log, one group of appends, one answer.

By itself a file costs three looks at the store and six at the log, however small it is: 13 ms of processor
time for a kilobyte. Together a file costs its request and one HEAD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_artifact.blobs import CHECKS_AT_ONCE, Blob, Blobs
from runyard_artifact.domain.artifact import ARTIFACT, ArtifactState, BeginUpload, CommitUpload
from runyard_artifact.domain.reference import object_key
from runyard_artifact.handlers import Request, artifact_stream
from runyard_artifact.objects import ObjectStore
from runyard_artifact.origins import Origins
from runyard_contracts.envelope import wrap
from runyard_contracts.ids import CommandId, Position, StreamName, deterministic_id
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import Clock
from runyard_core.errors import Conflict, Rejected
from runyard_core.fan_out import fan_out
from runyard_core.presign import SignedRequest
from runyard_eventlog.port import (
    READ_LIMIT_MAX,
    AppendCommand,
    EventFilter,
    EventLog,
    StreamAppend,
)

FILES_MAX = 500
"""Most files of one request."""

CommandT = TypeVar("CommandT", BeginUpload, CommitUpload)
Histories = Mapping[StreamName, Sequence[RecordedEvent]]


class ManyFiles:
    """Uploads of files that go up in one request each, and downloads. Repeating changes nothing more."""

    def __init__(self, event_log: EventLog, objects: ObjectStore, clock: Clock) -> None:
        """Append to this log, look into this store."""
        self._log = event_log
        self._objects = objects
        self._blobs = Blobs(objects)
        self._clock = clock
        self._origins = Origins(event_log)

    async def begin(self, commands: Sequence[BeginUpload], request: Request) -> list[SignedRequest | None]:
        """Announce files and sign their uploads; None for one that was written before.

        What the log says of a file is held against the store at the commit, as for every other file.

        Raises:
            Unavailable: the log does not answer.
        """
        if not commands:
            return []
        caused = request.caused_by(await self._origins.cause_of_upload(commands[0].origin))
        histories = await self._histories(command.sha256 for command in commands)
        appends: list[AppendCommand] = []
        for stream, mine in _by_stream(commands).items():
            state = _state(histories[stream])
            # The same bytes under several names are announced once.
            events = [] if state.is_written else ARTIFACT.decide(state, mine[0])
            if events:
                envelopes = [wrap(event, stream, caused.context, self._clock.now()) for event in events]
                appends.append(_append(request, stream, len(histories[stream]), envelopes))
        await self._append_all(appends)
        return [
            None
            if _state(histories[artifact_stream(command.sha256)]).is_written
            else self._objects.presign_put(object_key(command.sha256), command.sha256)
            for command in commands
        ]

    async def commit(self, commands: Sequence[CommitUpload], request: Request) -> tuple[list[str], Position]:
        """Verify the stored bytes and record every file that is right.

        Returns:
            For each file the code of the reason why it is not recorded, or nothing; and the last position,
            of what was recorded before where nothing is new.

        Raises:
            Unavailable: log or store does not answer; some may be recorded.
        """
        histories = await self._histories(command.sha256 for command in commands)
        refusals = await self._verified(commands, histories)
        right = [command for command, code in zip(commands, refusals, strict=True) if not code]
        appends: list[AppendCommand] = []
        for stream, mine in _by_stream(right).items():
            envelopes = await self._written(stream, mine, histories[stream], request)
            if envelopes:
                appends.append(_append(request, stream, len(histories[stream]), envelopes))
        conflicts, appended = await self._append_all(appends)
        known = (histories[artifact_stream(command.sha256)][-1:] for command in right)
        position = max([appended, *(event.position for events in known for event in events)])
        return [
            code or conflicts.get(artifact_stream(command.sha256), "")
            for command, code in zip(commands, refusals, strict=True)
        ], position

    async def downloads(self, sha256s: Sequence[str]) -> list[SignedRequest | None]:
        """Sign downloads; None for what was never written. What was written was verified then.

        Raises:
            Unavailable: the log does not answer.
        """
        histories = await self._histories(sha256s)
        return [
            self._objects.presign_get(object_key(sha256))
            if _state(histories[artifact_stream(sha256)]).is_written
            else None
            for sha256 in sha256s
        ]

    async def _written(
        self,
        stream: StreamName,
        commands: Sequence[CommitUpload],
        history: Sequence[RecordedEvent],
        request: Request,
    ) -> list[Envelope]:
        """Decide one file's origins, one after the other; each follows from its own announcement."""
        state = _state(history)
        envelopes: list[Envelope] = []
        for command in commands:
            events = ARTIFACT.decide(state, command)
            state = ARTIFACT.fold(events, state)
            caused = request.caused_by(await self._origins.cause_of_writing(command.origin, history))
            envelopes += [wrap(event, stream, caused.context, self._clock.now()) for event in events]
        return envelopes

    async def _verified(self, commands: Sequence[CommitUpload], histories: Histories) -> list[str]:
        async def refusal(blob: Blob) -> str:
            state = _state(histories[artifact_stream(blob.sha256)])
            try:
                await self._blobs.verify(blob, is_known=state.is_written)
            except Rejected as rejected:
                return rejected.code
            return "" if state.size_bytes in (None, blob.size_bytes) else "SIZE_MISMATCH"

        blobs = list(dict.fromkeys(Blob(command.sha256, command.size_bytes) for command in commands))
        found = dict(zip(blobs, await fan_out(CHECKS_AT_ONCE, refusal, blobs), strict=True))
        return [found[Blob(command.sha256, command.size_bytes)] for command in commands]

    async def _append_all(self, appends: Sequence[AppendCommand]) -> tuple[dict[StreamName, str], Position]:
        """Append side by side, so that they share the log's batches; gives conflicts."""
        conflicts: dict[StreamName, str] = {}

        async def append(command: AppendCommand) -> Position:
            try:
                return (await self._log.append(command)).position
            except Conflict as conflict:
                conflicts[command.appends[0].stream] = conflict.code
                return Position(0)

        positions = await fan_out(FILES_MAX, append, appends)
        return conflicts, max(positions, default=Position(0))

    async def _histories(self, sha256s: Iterable[str]) -> Histories:
        histories: dict[StreamName, list[RecordedEvent]] = {artifact_stream(sha256): [] for sha256 in sha256s}
        wanted = EventFilter(streams=tuple(histories))
        position = Position(0)
        while histories:
            page = await self._log.read(
                Lane.LANE_DOMAIN, after_position=position, filter=wanted, limit=READ_LIMIT_MAX
            )
            for event in page.events:
                histories[StreamName(event.envelope.stream)].append(event)
            if not page.is_full:
                break
            position = page.scanned_to
        return histories


def _by_stream(commands: Sequence[CommandT]) -> dict[StreamName, list[CommandT]]:
    found: dict[StreamName, list[CommandT]] = {}
    for command in commands:
        found.setdefault(artifact_stream(command.sha256), []).append(command)
    return found


def _state(history: Sequence[RecordedEvent]) -> ArtifactState:
    return ARTIFACT.fold(event.message for event in history)


def _append(
    request: Request, stream: StreamName, version: int, envelopes: Sequence[Envelope]
) -> AppendCommand:
    command_id = CommandId(deterministic_id(request.command_id, stream))
    return AppendCommand(command_id, [StreamAppend(stream, version, envelopes)], request.digest)
