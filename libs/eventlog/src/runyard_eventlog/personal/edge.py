"""The edge of a service: seals what names a person on the way in, opens it on the way out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import asyncpg
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard.event.v1.personal_pb2 import Personal
from runyard_eventlog.personal.fields import may_name_persons, rewrite
from runyard_eventlog.personal.keyring import Keyring, person_of_author
from runyard_eventlog.personal.seals import ERASED, SEALED, replaced, sealed_in, sealed_within
from runyard_eventlog.personal.yard_key import read_yard_key

_USER = "user:"

_log = logging.getLogger(__name__)

MessageT = TypeVar("MessageT", bound=Message)


def edge_of_service(pool: asyncpg.Pool, key_file: Path | None) -> PersonalEdge | None:
    """Give a service its edge; none, and a warning, when it was given no key file.

    Raises:
        InvalidInput: the key file cannot be used.
    """
    if key_file is None:
        _log.warning("RUNYARD_YARD_KEY_FILE is not set: events hold names of persons as they are")
        return None
    return PersonalEdge(Keyring(pool, read_yard_key(key_file)))


class PersonalEdge:
    """Fills ``runyard_servicekit.edge.Edge``."""

    def __init__(self, keyring: Keyring | None) -> None:
        """Use these keys; without any, what is sealed reads ``SEALED`` and nothing can be sealed."""
        self.keyring = keyring

    async def seal_actor(self, actor: Actor) -> Actor:
        """Give an actor as events shall name it: of a person the id is sealed.

        Raises:
            Unavailable: the keys cannot be read.
        """
        if actor.kind != ActorKind.ACTOR_KIND_USER or self.keyring is None:
            return actor
        sealed = await self.keyring.seal(f"{_USER}{actor.id}", actor.id)
        return Actor(kind=actor.kind, id=sealed)

    async def seal_request(self, request: Message) -> None:
        """Seal in place who a request names: authors, and persons that it asks for.

        Raises:
            Unavailable: the keys cannot be read.
        """
        keyring = self.keyring
        if keyring is None or not may_name_persons(request):
            return
        named: dict[tuple[Personal.ValueType, str], str] = {}
        rewrite(request, lambda kind, text: named.setdefault((kind, text), text))
        for kind, text in named:
            if kind == Personal.PERSONAL_AUTHOR and text not in (ERASED, SEALED):
                named[kind, text] = await keyring.seal(person_of_author(text), text)
            elif kind == Personal.PERSONAL_ACTOR and text.startswith(_USER):
                name = text.removeprefix(_USER)
                # Somebody who never did anything stays as written, and is not found.
                named[kind, text] = f"{_USER}{await keyring.sealed_already(text, name) or name}"
        rewrite(request, lambda kind, text: named[kind, text])

    async def open_answer(self, answer: MessageT) -> MessageT:
        """Give an answer with everything opened that the keys still open; the one given stays as it is.

        Raises:
            Unavailable: the keys cannot be read.
        """
        if not may_name_persons(answer):
            return answer
        # Looking through the bytes takes a tenth of the time of looking at every field.
        content = answer.SerializeToString()
        sealed = sealed_within(content)
        if not sealed:
            return answer
        opened = await self._open(sealed)
        # The same few persons stand in a long list.
        memory: dict[tuple[Personal.ValueType, str], str] = {}

        def put(kind: Personal.ValueType, text: str) -> str:
            known = memory.get((kind, text))
            if known is None:
                known = memory[kind, text] = _opened(kind, text, opened)
            return known

        # An answer may be, or hold, what the service keeps in memory, so a copy is changed.
        copy = type(answer).FromString(content)
        rewrite(copy, put)
        return copy

    async def open_text(self, text: str) -> str:
        """Open what is sealed within a text, as in ``open_answer``."""
        sealed = set(sealed_in(text))
        if not sealed:
            return text
        opened = await self._open(sealed)
        return replaced(text, opened.__getitem__)

    async def _open(self, sealed: set[str]) -> Mapping[str, str]:
        if self.keyring is None:
            return dict.fromkeys(sealed, SEALED)
        return await self.keyring.open(sealed)


def _opened(kind: Personal.ValueType, text: str, opened: Mapping[str, str]) -> str:
    if kind == Personal.PERSONAL_JSON:
        return replaced(text, lambda each: json.dumps(opened[each], ensure_ascii=False)[1:-1])
    return replaced(text, opened.__getitem__)
