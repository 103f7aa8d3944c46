"""The secrets of projects: sealed in the database, opened for a lease on its way to the agent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from runyard.agent.v1.agent_service_pb2 import LeaseGrant, RegistryLogin
from runyard.agent.v1.agent_service_pb2 import Secret as GrantedSecret
from runyard.run.v1.secret_service_pb2 import Secret
from runyard.run.v1.types_pb2 import Executor
from runyard_contracts.ids import is_name
from runyard_contracts.images import REGISTRY_SECRET, is_registry, registry_of
from runyard_core.errors import InvalidInput, Rejected, ResourceExhausted, Unavailable
from runyard_eventlog.connections import AWAY, Connection
from runyard_eventlog.personal.yard_key import YardKey, read_yard_key

VALUE_BYTES_MIN, VALUE_BYTES_MAX = 4, 32_768
GUARDED_BYTES_MIN = 8
NAME_LENGTH_MAX = 200
SECRETS_MAX = 100
"""Most secrets of a project."""

_CALL_SECONDS_MAX = 10.0
_NAME = re.compile(r"(?!VH_|RUNYARD_)[A-Za-z_][A-Za-z0-9_]*")

_SET = """
insert into secret.project_secret (project, name, sealed_value, changed_by) values ($1, $2, $3, $4)
on conflict (project, name) do update
set sealed_value = excluded.sealed_value, changed_by = excluded.changed_by, changed_at = clock_timestamp()
returning changed_at
"""
_LIST = "select name, changed_at, changed_by from secret.project_secret where project = $1 order by name"
_COUNT = "select count(*) from secret.project_secret where project = $1 and name <> $2"
_HAS = "select exists (select from secret.project_secret where project = $1 and name = $2)"
_VALUES = "select name, sealed_value from secret.project_secret where project = $1 order by name"
_REMOVE = "delete from secret.project_secret where project = $1 and name = $2 returning true"


class Secrets:
    """The store."""

    def __init__(self, pool: asyncpg.Pool, yard_key: YardKey | None) -> None:
        """Use the scheduler's connections; without a key nothing can be kept."""
        self._pool = pool
        self._yard_key = yard_key

    @classmethod
    def of_service(cls, pool: asyncpg.Pool, key_file: Path | None) -> Secrets:
        """Make the store of a service with this setting.

        Raises:
            InvalidInput: the key file cannot be used.
        """
        return cls(pool, None if key_file is None else read_yard_key(key_file))

    async def check_put(self, project: str, name: str, value: str) -> bool:
        """Hold that a value can be kept; says whether it would replace one.

        Raises:
            InvalidInput: the project, name or value cannot be.
            Rejected: the scheduler has no key (NO_YARD_KEY).
            ResourceExhausted: the project has ``SECRETS_MAX`` others.
            Unavailable: the database does not answer.
        """
        _check_project(project)
        _check(name, value)
        _ = self._key
        async with self._connected() as connection:
            if await connection.fetchval(_COUNT, project, name) >= SECRETS_MAX:
                raise ResourceExhausted(
                    f"project {project} has {SECRETS_MAX} secrets", code="TOO_MANY_SECRETS"
                )
            return bool(await connection.fetchval(_HAS, project, name))

    async def put(self, project: str, name: str, value: str, changed_by: str) -> Secret:
        """Keep a value that was checked; it replaces the one of that name.

        Raises:
            Rejected: the scheduler has no key (NO_YARD_KEY).
            Unavailable: the database does not answer.
        """
        sealed = self._key.seal_secret(_place(project, name), value)
        async with self._connected() as connection:
            changed_at = await connection.fetchval(_SET, project, name, sealed, changed_by)
        secret = Secret(project=project, name=name, changed_by=changed_by)
        secret.changed_at.FromDatetime(changed_at)
        return secret

    async def names(self, project: str) -> Sequence[Secret]:
        """Give what may be known of the secrets of a project.

        Raises:
            InvalidInput: not the name of a project.
            Unavailable: the database does not answer.
        """
        _check_project(project)
        async with self._connected() as connection:
            rows = await connection.fetch(_LIST, project)
        found = []
        for row in rows:
            secret = Secret(project=project, name=row["name"], changed_by=row["changed_by"])
            secret.changed_at.FromDatetime(row["changed_at"])
            found.append(secret)
        return found

    async def has(self, project: str, name: str) -> bool:
        """Say whether a project has a secret of that name.

        Raises:
            InvalidInput: not the name of a project.
            Unavailable: the database does not answer.
        """
        _check_project(project)
        if "\0" in name:
            return False
        async with self._connected() as connection:
            return bool(await connection.fetchval(_HAS, project, name))

    async def remove(self, project: str, name: str) -> bool:
        """Forget a secret; False when there is none of that name.

        Raises:
            InvalidInput: not the name of a project.
            Unavailable: the database does not answer.
        """
        _check_project(project)
        async with self._connected() as connection:
            return bool(await connection.fetchval(_REMOVE, project, name))

    async def refuse_within(self, project: str, content: bytes) -> None:
        """Hold that what is about to become an event holds no value of the project's secrets.

        Values under ``GUARDED_BYTES_MIN`` bytes may well stand for something else, and are let through.

        Raises:
            Rejected: it does (SECRET_IN_REQUEST); the message names the secrets.
            Corrupt: the key is another one.
            Unavailable: the database does not answer.
        """
        async with self._connected() as connection:
            rows = await connection.fetch(_VALUES, project)
        found = []
        for name, sealed in ((row["name"], row["sealed_value"]) for row in rows):
            value = self._key.open_secret(_place(project, name), sealed)
            if name.startswith(REGISTRY_SECRET):
                value = value.partition(":")[2]
            if len(value.encode()) >= GUARDED_BYTES_MIN and value.encode() in content:
                found.append(name)
        if found:
            raise Rejected(
                f"the request holds the value of secret {', '.join(found)}, and what a run asks for is kept "
                "for ever: leave it out, programs get secrets as variables",
                code="SECRET_IN_REQUEST",
            )

    async def fill(self, grant: LeaseGrant) -> None:
        """Add to a lease what its run gets: variables, and the login for the registry of its image.

        Logins for other registries stay here, and none is a variable: the program has no use for them.

        Raises:
            Rejected: the scheduler has no key any more, and the project has secrets.
            Corrupt: the key is another one.
            Unavailable: the database does not answer.
        """
        async with self._connected() as connection:
            rows = await connection.fetch(_VALUES, grant.project)
        wanted = ""
        if grant.spec.image and grant.spec.executor != Executor.EXECUTOR_PROCESS:
            wanted = f"{REGISTRY_SECRET}{registry_of(grant.spec.image)}"
        for name, sealed in ((row["name"], row["sealed_value"]) for row in rows):
            if name.startswith(REGISTRY_SECRET) and name != wanted:
                continue
            value = self._key.open_secret(_place(grant.project, name), sealed)
            if name == wanted:
                username, _, password = value.partition(":")
                registry = name.removeprefix(REGISTRY_SECRET)
                login = RegistryLogin(registry=registry, username=username, password=password)
                grant.registry_login.CopyFrom(login)
            else:
                grant.secrets.append(GrantedSecret(name=name, value=value))

    @property
    def _key(self) -> YardKey:
        if self._yard_key is None:
            raise Rejected(
                "secrets need a key to be kept under: the scheduler has no RUNYARD_YARD_KEY_FILE",
                code="NO_YARD_KEY",
            )
        return self._yard_key

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        try:
            async with asyncio.timeout(_CALL_SECONDS_MAX), self._pool.acquire() as connection:
                yield connection
        except AWAY as error:
            raise Unavailable(f"the secrets cannot be read: {error!r}", code="SECRETS_UNREACHABLE") from error


def _place(project: str, name: str) -> str:
    return f"{project}/{name}"


def _check_project(project: str) -> None:
    if not is_name(project):
        raise InvalidInput(f"{project!r} cannot name a project", code="BAD_PROJECT_NAME")


def _check(name: str, value: str) -> None:
    violations = {}
    if name.startswith(REGISTRY_SECRET):
        username, colon, password = value.partition(":")
        if not is_registry(name.removeprefix(REGISTRY_SECRET)) or len(name) > NAME_LENGTH_MAX:
            violations["name"] = f'want "{REGISTRY_SECRET}" and a host in small letters, maybe with a port'
        if not (username and colon and password) or value.splitlines() != [value]:
            violations["value"] = 'want a login, "user:password"'
    elif _NAME.fullmatch(name) is None or len(name) > NAME_LENGTH_MAX:
        violations["name"] = 'want A-Z, a-z, 0-9 and "_", not beginning with a digit, VH_ or RUNYARD_'
    if not VALUE_BYTES_MIN <= len(value.encode()) <= VALUE_BYTES_MAX or "\0" in value:
        violations["value"] = f"want {VALUE_BYTES_MIN} to {VALUE_BYTES_MAX} bytes without NUL"
    if violations:
        what = "; ".join(f"{field}: {problem}" for field, problem in violations.items())
        raise InvalidInput(f"not a secret: {what}", code="BAD_SECRET", field_violations=violations)
