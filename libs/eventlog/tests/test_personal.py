"""What names a person: its sealed form, where it may stand, and what is left once the key is gone."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from hypothesis import given
from hypothesis import strategies as st

from runyard.event.v1 import personal_pb2
from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Envelope
from runyard.history.v1.history_service_pb2 import (
    EventFilter,
    EventView,
    ListEventsRequest,
    ListEventsResponse,
)
from runyard.run.v1.scheduler_service_pb2 import GetRunResponse, ListRunsResponse, SubmitRunRequest
from runyard.run.v1.types_pb2 import CodeRef, Run, RunSpec
from runyard_contracts.registry import BY_NAME
from runyard_core.errors import Corrupt, InvalidInput
from runyard_eventlog.personal.edge import PersonalEdge
from runyard_eventlog.personal.fields import may_name_persons
from runyard_eventlog.personal.keyring import Keyring, person_named, person_of_author
from runyard_eventlog.personal.seals import (
    ERASED,
    SEALED,
    PersonKey,
    new_person,
    person_of,
    replaced,
    sealed_in,
)
from runyard_eventlog.personal.yard_key import YARD_KEY_BYTES, YardKey, create_yard_key, read_yard_key

AUTHOR = 'Zoë "Z" Example <zoe@example.com>'


class KeyringInMemory(Keyring):
    """Keys without a database: what the edge does with them is what is tested here."""

    def __init__(self) -> None:
        self.keys: dict[str, PersonKey | None] = {}
        self.persons: dict[bytes, str] = {}

    async def seal(self, person: str, text: str) -> str:
        key = self.keys.get(person)
        if key is None:
            person_id, drawn = new_person()
            key = self.keys[person] = PersonKey(person_id, drawn)
            self.persons[person_id] = person
        return key.seal(text)

    async def sealed_already(self, person: str, text: str) -> str:
        return await self.seal(person, text) if self.keys.get(person) else ""

    async def open(self, sealed: Collection[str]) -> Mapping[str, str]:
        keys = {each: self.keys[self.persons[person_of(each)]] for each in sealed}
        return {each: ERASED if key is None else key.open(each) for each, key in keys.items()}


@given(st.text(min_size=1), st.text(), st.text())
def test_sealed_text_is_found_and_opened_wherever_it_stands(text: str, before: str, after: str) -> None:
    key = PersonKey(*new_person())
    sealed = key.seal(text)
    assert key.open(sealed) == text
    around = f"{before.replace('~', '')}{sealed}{after.replace('~', '')}"
    assert sealed_in(around) == [sealed]
    assert replaced(around, key.open) == f"{before.replace('~', '')}{text}{after.replace('~', '')}"


def test_the_same_text_has_one_sealed_form_and_another_under_another_key() -> None:
    person_id, key = new_person()
    assert PersonKey(person_id, key).seal("zoe") == PersonKey(person_id, key).seal("zoe")
    assert PersonKey(person_id, key).seal("zoe") != PersonKey(*new_person()).seal("zoe")


def test_a_changed_seal_and_a_foreign_key_open_nothing() -> None:
    person_id, key = new_person()
    sealed = PersonKey(person_id, key).seal("zoe")
    changed = f"{sealed[:20]}{'A' if sealed[20] != 'A' else 'B'}{sealed[21:]}"
    for broken, with_key in ((changed, key), (sealed, os.urandom(64)), ("zoe", key)):
        with pytest.raises(Corrupt, match="does not open"):
            PersonKey(person_id, with_key).open(broken)


def test_every_actor_of_every_event_is_declared_personal() -> None:
    assert may_name_persons(Envelope)
    named = {name for name, event in BY_NAME.items() if may_name_persons(event.message_class)}
    assert named == {"runyard.run.queued", "runyard.code.snapshot_recorded"}


def test_no_field_that_names_an_actor_is_left_undeclared() -> None:
    undeclared = [
        field.full_name
        for message in _messages()
        for field in message.fields
        if field.name in ("actor", "git_author") or field.name.endswith(("_by", "_actor", "_author"))
        if field.message_type is None and not field.GetOptions().Extensions[personal_pb2.personal]
    ]
    assert undeclared == []


def _messages() -> Iterator[Descriptor]:
    """Give every message of the contracts that a client may see."""
    pool = descriptor_pool.Default()
    for area in ("run", "artifact", "metric", "cost", "lineage", "history", "record"):
        for module in pkgutil.iter_modules(importlib.import_module(f"runyard.{area}.v1").__path__):
            if module.name.endswith("_pb2"):
                imported = importlib.import_module(f"runyard.{area}.v1.{module.name}")
                yield from pool.FindFileByName(imported.DESCRIPTOR.name).message_types_by_name.values()


async def test_a_request_is_sealed_and_its_answer_opened_until_the_key_is_gone() -> None:
    keyring = KeyringInMemory()
    edge = PersonalEdge(keyring)
    actor = await edge.seal_actor(Actor(kind=ActorKind.ACTOR_KIND_USER, id="zoe"))
    request = SubmitRunRequest(spec=RunSpec(code=CodeRef(git_author=AUTHOR)))
    await edge.seal_request(request)
    assert b"example.com" not in request.SerializeToString()
    assert actor.id.startswith("~")

    run = Run(submitted_by=f"user:{actor.id}", spec=request.spec, title="zoe's")
    kept = GetRunResponse(run=run)
    stored = kept.SerializeToString()
    opened = await edge.open_answer(kept)
    assert (opened.run.submitted_by, opened.run.spec.code.git_author) == ("user:zoe", AUTHOR)
    assert kept.SerializeToString() == stored

    keyring.keys["user:zoe"] = None
    (first, second) = (await edge.open_answer(ListRunsResponse(runs=[run, run]))).runs
    assert (first.submitted_by, second.submitted_by) == ("user:[erased]", "user:[erased]")
    assert first.spec.code.git_author == AUTHOR
    assert await edge.open_text(f"user:{actor.id} may not") == "user:[erased] may not"


async def test_names_within_json_are_written_as_json() -> None:
    edge = PersonalEdge(KeyringInMemory())
    request = SubmitRunRequest(spec=RunSpec(code=CodeRef(git_author=AUTHOR)))
    await edge.seal_request(request)
    view = EventView(data_json=json.dumps({"git_author": request.spec.code.git_author}))
    (opened,) = (await edge.open_answer(ListEventsResponse(events=[view]))).events
    assert json.loads(opened.data_json) == {"git_author": AUTHOR}


async def test_services_and_agents_are_no_persons_and_a_question_makes_nobody_known() -> None:
    keyring = KeyringInMemory()
    edge = PersonalEdge(keyring)
    agent = Actor(kind=ActorKind.ACTOR_KIND_AGENT, id="n1")
    assert await edge.seal_actor(agent) == agent
    question = ListEventsRequest(filter=EventFilter(actor="user:zoe"))
    await edge.seal_request(question)
    assert (question.filter.actor, keyring.keys) == ("user:zoe", {})
    actor = await edge.seal_actor(Actor(kind=ActorKind.ACTOR_KIND_USER, id="zoe"))
    await edge.seal_request(question)
    assert question.filter.actor == f"user:{actor.id}"


async def test_a_copy_without_keys_shows_that_something_is_sealed() -> None:
    sealed = PersonKey(*new_person()).seal("zoe")
    opened = await PersonalEdge(None).open_answer(GetRunResponse(run=Run(submitted_by=f"user:{sealed}")))
    assert opened.run.submitted_by == f"user:{SEALED}"


def test_an_author_is_known_by_the_mail_address() -> None:
    assert person_of_author(AUTHOR) == person_named("ZOE@example.com") == "mail:zoe@example.com"
    assert person_of_author("somebody without one") == "mail:somebody without one"
    assert person_named("user:zoe") == "user:zoe"
    assert person_named("~AAAAbbbb____-000") == "~AAAAbbbb____-000"
    for wrong in ("", "user:", "zoe", "~AAAAbbbb", "agent:n1", f"user:{'z' * 400}"):
        with pytest.raises(InvalidInput):
            person_named(wrong)


def test_the_yards_key_file_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "yard.key"
    create_yard_key(path)
    first = path.read_bytes()
    create_yard_key(path)
    assert path.read_bytes() == first
    assert path.stat().st_mode & 0o777 == 0o600
    read_yard_key(path)
    path.chmod(0o640)
    with pytest.raises(InvalidInput) as refused:
        read_yard_key(path)
    assert refused.value.code == "KEY_FILE_OPEN"
    path.chmod(0o600)
    path.write_text("not a key")
    with pytest.raises(InvalidInput) as refused:
        read_yard_key(path)
    assert refused.value.code == "BAD_KEY_FILE"


def test_keys_are_wrapped_for_one_person_under_one_yards_key() -> None:
    yard_key = YardKey(os.urandom(YARD_KEY_BYTES))
    person_id, key = new_person()
    wrapped = yard_key.wrap(person_id, key)
    assert yard_key.unwrap(person_id, wrapped) == key
    other = YardKey(os.urandom(YARD_KEY_BYTES))
    for opener, whose in ((other, person_id), (yard_key, new_person()[0])):
        with pytest.raises(Corrupt):
            opener.unwrap(whose, wrapped)
    assert yard_key.name_hash("user:zoe") != other.name_hash("user:zoe")
