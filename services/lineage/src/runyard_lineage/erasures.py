"""Carries out that a person is erased: says so in the log first, then shreds the key."""

from __future__ import annotations

import hashlib

from runyard.history.v1.events_pb2 import PersonErased
from runyard.history.v1.history_service_pb2 import ErasePersonRequest, ErasePersonResponse
from runyard_contracts.envelope import wrap
from runyard_contracts.ids import Position, stream_name
from runyard_core.clock import Clock
from runyard_core.errors import Conflict, Rejected
from runyard_eventlog.personal.keyring import Keyring, person_named
from runyard_eventlog.personal.seals import person_name
from runyard_eventlog.port import AppendCommand, EventLog, StreamAppend
from runyard_servicekit.context import command_id, request_context

SERVICE = "lineage"


class Erasures:
    """Erases persons."""

    def __init__(self, event_log: EventLog, keyring: Keyring | None, clock: Clock) -> None:
        """Append to this log; ``keyring`` is None where names are not sealed."""
        self._log = event_log
        self._keyring = keyring
        self._clock = clock

    async def erase(self, request: ErasePersonRequest) -> ErasePersonResponse:
        """Shred the key of a person; when this answers, no service shows the name any more.

        A repetition finds nobody of that name, which is an answer too.

        Raises:
            InvalidInput: not the name of a person (BAD_PERSON), or no request_id.
            Rejected: this yard does not seal names (NOT_SEALED).
            Unavailable: log or keys do not answer; repeating the request is safe.
        """
        if self._keyring is None:
            raise Rejected(
                "names are not sealed in this yard: its services have no RUNYARD_YARD_KEY_FILE",
                code="NOT_SEALED",
            )
        person_id = await self._keyring.find(person_named(request.person))
        if person_id is None:
            return ErasePersonResponse()
        name = person_name(person_id)
        position = await self._tell(name, request.request_id)
        await self._keyring.erase(person_id)
        return ErasePersonResponse(person_id=name, position=position)

    async def _tell(self, person_id: str, request_id: str) -> Position:
        """Append the event, once for each person however often and by whoever it is asked for."""
        command = command_id(SERVICE, "ErasePerson", request_id)
        stream = stream_name("log", f"erased.{person_id}")
        erased = wrap(PersonErased(person_id=person_id), stream, request_context(SERVICE), self._clock.now())
        digest = hashlib.sha256(person_id.encode()).digest()
        try:
            appended = await self._log.append(
                AppendCommand(command, [StreamAppend(stream, 0, [erased])], request_digest=digest)
            )
        except Conflict:
            # Said before, by somebody who did not come to the shredding.
            (event,) = await self._log.read_stream(stream)
            return event.position
        return appended.position
