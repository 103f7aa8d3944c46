"""Applies what a run says of its outputs, one by one: labels, aliases, dataset and model versions."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import Message

from runyard.artifact.v1.registry_events_pb2 import DatasetAliasMoved, ModelVersionRegistered
from runyard.artifact.v1.registry_types_pb2 import DescribedOutput, VersionFile
from runyard.artifact.v1.types_pb2 import Origin
from runyard_artifact.domain import dataset
from runyard_artifact.domain.dataset import DATASET, CreateVersion, DatasetState
from runyard_artifact.domain.description import (
    Labels,
    WantedDataset,
    WantedModel,
    read_description,
)
from runyard_artifact.domain.labels import ALIAS, LABELS, LabelFile, MoveAlias
from runyard_artifact.domain.model import MODEL, ModelState, RegisterVersion
from runyard_artifact.domain.naming import (
    alias_stream,
    dataset_stream,
    model_stream,
    parse_dataset_version,
)
from runyard_artifact.handlers import Request
from runyard_artifact.origins import Origins
from runyard_contracts.ids import CommandId, Position, StreamName, deterministic_id, stream_name
from runyard_core.clock import Clock
from runyard_core.decider import Decider
from runyard_core.errors import InvalidInput, NotFound, Rejected
from runyard_eventlog.handler import Executed, execute, load
from runyard_eventlog.port import EventLog

StateT = TypeVar("StateT")
CommandT = TypeVar("CommandT")


@dataclass(slots=True)
class Applied:
    """What became of a description."""

    made: list[str] = field(default_factory=list)
    """References of what was made or moved."""
    problems: list[str] = field(default_factory=list)
    position: Position = field(default=Position(0))


class RegistryHandlers:
    """The commands on names, and what names stand for now."""

    def __init__(self, event_log: EventLog, clock: Clock) -> None:
        """Append to this log."""
        self._log = event_log
        self._clock = clock
        self._origins = Origins(event_log)

    async def describe(self, origin: Origin, outputs: Iterable[DescribedOutput], request: Request) -> Applied:
        """Do what a run says of its outputs; what cannot be done is among the problems.

        Every part is a command of its own, with an id made of the request's: a repetition does what is left.

        Raises:
            Conflict, IdReused, Unavailable: see ``execute``; doing it again is safe.
        """
        applied = Applied()
        request = request.caused_by(await self._origins.cause_of_upload(origin))
        description = read_description(outputs)
        applied.problems += description.problems
        for output, labels in description.labels:
            await _noting(applied, self._label(origin, output, labels, request, applied))
        for wanted_dataset in description.datasets_in_order():
            await _noting(applied, self._create_version(origin, wanted_dataset, request, applied))
        for wanted_model in description.models.values():
            await _noting(applied, self._register(origin, wanted_model, request, applied))
        return applied

    async def dataset(self, project: str, name: str, at: Position | None = None) -> DatasetState:
        """Give a dataset as it is, or was at a position.

        Raises:
            Unavailable: the log did not answer in time.
        """
        return await self._fold(dataset_stream(project, name), DATASET, at)

    async def model(self, project: str, name: str, at: Position | None = None) -> ModelState:
        """Give a model as it is, or was at a position.

        Raises:
            Unavailable: the log did not answer in time.
        """
        return await self._fold(model_stream(project, name), MODEL, at)

    async def alias(self, project: str, alias: str, at: Position | None = None) -> str:
        """Give the file that an alias stands for, or stood for at a position; empty when there is none.

        Raises:
            Unavailable: the log did not answer in time.
        """
        return await self._fold(alias_stream(project, alias), ALIAS, at)

    async def _label(
        self, origin: Origin, output: DescribedOutput, labels: Labels, request: Request, applied: Applied
    ) -> None:
        at = _origin_of(origin, output.path)
        label = LabelFile(output.sha256, labels.tags, labels.properties, at)
        if labels.tags or labels.properties.fields:
            stream = stream_name("artifact", output.sha256)
            await self._execute(stream, LABELS, label, request, applied, key=output.path)
        if labels.alias:
            await self._hold_written([output.sha256])
            move = MoveAlias(origin.project, labels.alias, output.sha256, at)
            stream = alias_stream(origin.project, labels.alias)
            # Each version of a path moves it: the newest comes last.
            key = f"{output.sha256} {output.path}"
            if (await self._execute(stream, ALIAS, move, request, applied, key=key)).events:
                applied.made.append(f"datum://{labels.alias}")

    async def _create_version(
        self, origin: Origin, wanted: WantedDataset, request: Request, applied: Applied
    ) -> None:
        await self._hold_written(file.sha256 for file in wanted.files.values())
        from_version = ""
        base_files: Sequence[VersionFile] = ()
        if wanted.base:
            base = parse_dataset_version(wanted.base)
            state = await self.dataset(origin.project, base.name)
            version, base_files = dataset.files_of(state, base.version, wanted.base)
            from_version = f"dataset://{base.name}/{version}"
        command = CreateVersion(
            project=origin.project,
            dataset=wanted.dataset,
            version=wanted.version,
            files=wanted.all_files(base_files),
            from_version=from_version,
            aliases=wanted.aliases,
            origin=origin,
        )
        stream = dataset_stream(origin.project, wanted.dataset)
        executed = await self._execute(stream, DATASET, command, request, applied, key=wanted.version)
        for event in executed.events:
            version = event.alias if isinstance(event, DatasetAliasMoved) else wanted.version
            applied.made.append(f"dataset://{wanted.dataset}/{version}")

    async def _register(
        self, origin: Origin, wanted: WantedModel, request: Request, applied: Applied
    ) -> None:
        await self._hold_written(file.sha256 for file in wanted.files.values())
        command = RegisterVersion(
            project=origin.project,
            model=wanted.model,
            files=list(wanted.files.values()),
            tags=wanted.tags,
            release_note=wanted.release_note,
            origin=origin,
        )
        stream = model_stream(origin.project, wanted.model)
        for event in (await self._execute(stream, MODEL, command, request, applied)).events:
            if isinstance(event, ModelVersionRegistered):
                applied.made.append(f"model://{wanted.model}/{event.version}")

    async def _hold_written(self, sha256s: Iterable[str]) -> None:
        for sha256 in dict.fromkeys(sha256s):
            state = await self._fold(stream_name("artifact", sha256), LABELS, None)
            if not state.is_written:
                raise Rejected(f"there is no file {sha256}", code="OBJECT_MISSING")

    async def _execute(
        self,
        stream: StreamName,
        decider: Decider[StateT, CommandT, Message],
        command: CommandT,
        request: Request,
        applied: Applied,
        *,
        key: str = "",
    ) -> Executed:
        executed = await execute(
            self._log,
            stream,
            decider,
            command,
            request.context,
            command_id=CommandId(deterministic_id(request.command_id, stream, type(command).__name__, key)),
            now=self._clock.now(),
            request_digest=request.digest,
        )
        applied.position = max(applied.position, executed.position)
        return executed

    async def _fold(
        self, stream: StreamName, decider: Decider[StateT, CommandT, Message], at: Position | None
    ) -> StateT:
        history = await load(self._log, stream)
        return decider.fold(event.message for event in history if at is None or event.position <= at)


async def _noting(applied: Applied, work: Awaitable[None]) -> None:
    try:
        await work
    except (Rejected, NotFound, InvalidInput) as error:
        applied.problems.append(error.message)


def _origin_of(origin: Origin, path: str) -> Origin:
    return Origin(path=path, run_id=origin.run_id, attempt=origin.attempt, project=origin.project)
