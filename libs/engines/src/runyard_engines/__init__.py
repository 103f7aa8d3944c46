"""The engines: PostgreSQL, NATS and an S3 store, each a real server run as a child process."""

from runyard_engines.engine import Engine, start_ready
from runyard_engines.nats import (
    NatsServer,
    NatsSpec,
    NatsUser,
    agent_user,
    agent_user_name,
    metrics_user,
    relay_user,
    service_user,
)
from runyard_engines.ports import choose_port
from runyard_engines.postgres import Postgres, PostgresSpec
from runyard_engines.process import ChildProcess, EngineFailed, PortInUse, ProcessIdentity, ProcessSpec
from runyard_engines.store import Store, StoreSpec, choose_store_port

__all__ = [
    "ChildProcess",
    "Engine",
    "EngineFailed",
    "NatsServer",
    "NatsSpec",
    "NatsUser",
    "PortInUse",
    "Postgres",
    "PostgresSpec",
    "ProcessIdentity",
    "ProcessSpec",
    "Store",
    "StoreSpec",
    "agent_user",
    "agent_user_name",
    "choose_port",
    "choose_store_port",
    "metrics_user",
    "relay_user",
    "service_user",
    "start_ready",
]
