"""The store of secrets on a real database: sealed there, and open to nobody but the scheduler."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard.run.v1.secret_service_pb2 import RemoveSecretRequest, SetSecretRequest
from runyard.run.v1.types_pb2 import Executor, RunSpec
from runyard_contracts.ids import uuid7
from runyard_core.clock import ManualClock
from runyard_core.errors import Corrupt, IdReused, InvalidInput, Rejected, ResourceExhausted
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.migrate import ROLES
from runyard_eventlog.personal.yard_key import YARD_KEY_BYTES, YardKey
from runyard_scheduler import secrets as module
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.process.world import World
from runyard_scheduler.secret_handlers import SecretHandlers
from runyard_scheduler.secrets import Secrets
from runyard_testkit import Database

pytestmark = pytest.mark.engines

VALUE = "xyzzy-plugh"


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database.url("scheduler"), min_size=1, max_size=2) as opened:
        yield opened


@pytest.fixture
def secrets(pool: asyncpg.Pool) -> Secrets:
    return Secrets(pool, YardKey(os.urandom(YARD_KEY_BYTES)))


async def filled(secrets: Secrets, project: str, image: str = "", **spec: Any) -> LeaseGrant:
    grant = LeaseGrant(project=project, spec=RunSpec(image=image, **spec))
    await secrets.fill(grant)
    return grant


async def variables(secrets: Secrets, project: str) -> dict[str, str]:
    return {each.name: each.value for each in (await filled(secrets, project)).secrets}


async def test_a_request_that_holds_a_value_is_refused_and_not_repeated(secrets: Secrets) -> None:
    await secrets.put("guarded", "A", VALUE, "user:x")
    await secrets.put("guarded", "SHORT", "short", "user:x")
    await secrets.put("guarded", "registry:ghcr.io", "nobody:hunter2-hunter2", "user:x")
    for content in (f"http://u:{VALUE}@host/", f"{VALUE} and hunter2-hunter2"):
        with pytest.raises(Rejected) as refused:
            await secrets.refuse_within("guarded", content.encode())
        assert refused.value.code == "SECRET_IN_REQUEST"
        assert VALUE not in refused.value.message
    assert "A, registry:ghcr.io" in refused.value.message
    await secrets.refuse_within("guarded", b"short, and the name of nobody")
    await secrets.refuse_within("another", VALUE.encode())


async def test_a_lease_gets_the_newest_values_of_its_own_project(secrets: Secrets) -> None:
    await secrets.put("digits", "A", "first-value", "user:x")
    await secrets.put("digits", "A", VALUE, "user:y")
    await secrets.put("digits", "B", "wørd", "user:y")
    await secrets.put("other", "A", "elsewhere", "user:x")
    assert await variables(secrets, "digits") == {"A": VALUE, "B": "wørd"}
    assert [(each.name, each.changed_by) for each in await secrets.names("digits")] == [
        ("A", "user:y"),
        ("B", "user:y"),
    ]
    assert [await secrets.remove("digits", "A") for _ in range(2)] == [True, False]
    assert list(await variables(secrets, "digits")) == ["B"]
    assert await variables(secrets, "nothing") == {}


async def test_a_lease_gets_the_login_of_its_images_registry_and_of_no_other(secrets: Secrets) -> None:
    for registry in ("localhost:5000", "docker.io"):
        await secrets.put("digits", f"registry:{registry}", f"alice:{registry}:{VALUE}", "user:x")
    await secrets.put("digits", "A", VALUE, "user:x")
    grant = await filled(secrets, "digits", "localhost:5000/team/model:1")
    assert [secret.name for secret in grant.secrets] == ["A"]
    login = grant.registry_login
    assert (login.registry, login.username) == ("localhost:5000", "alice")
    assert login.password == f"localhost:5000:{VALUE}"
    assert (await filled(secrets, "digits", "python:3.11")).registry_login.registry == "docker.io"
    for others in (
        await filled(secrets, "digits", "ghcr.io/a/b"),
        await filled(secrets, "other", "python:3.11"),
        await filled(secrets, "digits", "python:3.11", executor=Executor.EXECUTOR_PROCESS),
    ):
        assert not others.HasField("registry_login")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("registry:", "alice:pass"),
        ("registry:ghcr.io/alice", "alice:pass"),
        ("registry:GHCR.io", "alice:pass"),
        ("registry:ghcr.io", "a-token-alone"),
        ("registry:ghcr.io", ":password"),
        ("registry:ghcr.io", "alice:"),
        ("registry:ghcr.io", "alice:pass\nword"),
    ],
)
async def test_what_cannot_be_a_login_is_refused(secrets: Secrets, name: str, value: str) -> None:
    with pytest.raises(InvalidInput):
        await secrets.check_put("digits", name, value)


async def test_the_database_holds_no_value_and_a_moved_one_does_not_open(
    secrets: Secrets, pool: asyncpg.Pool
) -> None:
    await secrets.put("digits", "A", VALUE, "user:x")
    (row,) = await pool.fetch("select * from secret.project_secret")
    assert VALUE.encode() not in row["sealed_value"]
    await pool.execute("update secret.project_secret set project = 'other'")
    for whose in (secrets, Secrets(pool, YardKey(os.urandom(YARD_KEY_BYTES)))):
        with pytest.raises(Corrupt):
            await variables(whose, "other")


async def test_without_a_key_nothing_is_kept(pool: asyncpg.Pool) -> None:
    keyless = Secrets.of_service(pool, None)
    with pytest.raises(Rejected) as refused:
        await keyless.check_put("digits", "A", VALUE)
    assert refused.value.code == "NO_YARD_KEY"
    assert await variables(keyless, "digits") == {}


@pytest.mark.usefixtures("as_alice")
async def test_a_repeated_request_to_forget_gets_its_first_answer(secrets: Secrets) -> None:
    handlers = SecretHandlers(Ledger(MemoryEventLog(), World()), secrets, ManualClock())
    await handlers.put(SetSecretRequest(request_id=uuid7(), project="digits", name="A", value=VALUE))
    forget = RemoveSecretRequest(request_id=uuid7(), project="digits", name="A")
    assert await handlers.remove(forget)
    assert await handlers.remove(forget)
    another = RemoveSecretRequest(request_id=uuid7(), project="digits", name="A")
    assert not await handlers.remove(another)
    another.name = "a\0b"
    assert not await handlers.remove(another)
    forget.name = "B"
    with pytest.raises(IdReused):
        await handlers.remove(forget)


async def test_a_project_has_a_bounded_number_of_secrets(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECRETS_MAX", 1)
    assert not await secrets.check_put("digits", "A", VALUE)
    await secrets.put("digits", "A", VALUE, "user:x")
    assert await secrets.check_put("digits", "A", VALUE)
    with pytest.raises(ResourceExhausted):
        await secrets.check_put("digits", "B", VALUE)
    with pytest.raises(InvalidInput):
        await secrets.names("not a project")


@pytest.mark.parametrize("role", [role for role in ROLES if role != "runyard_scheduler"])
async def test_no_other_role_sees_them(role: str, database: Database) -> None:
    async with database.connected(role) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("select from secret.project_secret")
