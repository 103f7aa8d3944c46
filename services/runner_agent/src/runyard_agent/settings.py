"""The agent's settings, from the environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runyard_agent.container_rules import ContainerRules
from runyard_agent.domain.file_systems import split_export
from runyard_agent.environment.shared import ENVIRONMENT_BYTES_MAX
from runyard_agent.gate import Gate
from runyard_agent.limits import AttemptRules
from runyard_agent.publisher import BusAddress
from runyard_contracts.ids import is_name
from runyard_core.errors import InvalidInput

MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the agent is told from outside."""

    node_id: str
    """RUNYARD_NODE_ID."""
    directory: Path
    """RUNYARD_AGENT_DIR: attempts, caches and the spool. One agent at a time."""
    scheduler_address: str
    """RUNYARD_SCHEDULER_ADDRESS, host:port."""
    artifact_address: str
    """RUNYARD_ARTIFACT_ADDRESS, host:port."""
    bus: BusAddress
    """RUNYARD_NATS_URL, RUNYARD_NATS_USER, RUNYARD_NATS_PASSWORD."""
    token: str = field(repr=False)
    """RUNYARD_AGENT_TOKEN."""
    gate: Gate | None = None
    """RUNYARD_GATE_CERTIFICATE_FILE: the yard is on another machine, all of it behind one address."""
    slot_count: int = 1
    """RUNYARD_SLOT_COUNT: how many attempts may run at once; default: one for each CPU. 0: what runs goes on,
    and nothing new is taken."""
    spool_bytes_max: int = 1024 * MEGABYTE
    """RUNYARD_SPOOL_MEGABYTES: what may wait for the log before producers wait too."""
    shared_folders: tuple[Path, ...] = ()
    """RUNYARD_SHARED_FOLDERS: folders of the machine that any run may read, separated by ":"."""
    nfs_exports: tuple[str, ...] = ()
    """RUNYARD_NFS_EXPORTS: what may be mounted for runs, "server:/path", separated by ","."""
    container_rules: ContainerRules = field(default_factory=ContainerRules)
    """RUNYARD_DOCKER_NETWORK; RUNYARD_SHARED_MEMORY_MEGABYTES: size of /dev/shm in a container;
    RUNYARD_IMAGE_CACHE_MEGABYTES: what pulled images may take."""
    input_cache_bytes_max: int = 50 * 1024 * MEGABYTE
    """RUNYARD_INPUT_CACHE_MEGABYTES: what inputs and code may take that no attempt uses at the moment."""
    environment_cache_bytes_max: int = ENVIRONMENT_BYTES_MAX
    """RUNYARD_ENVIRONMENT_CACHE_MEGABYTES: what virtual environments of processes may take."""
    attempt_rules: AttemptRules = field(default_factory=AttemptRules)
    """RUNYARD_PROCESSES_MAX, RUNYARD_DISK_MEGABYTES: what any attempt may take; default: a share of all."""
    log_level: str = "INFO"
    """RUNYARD_LOG_LEVEL."""
    otlp_endpoint: str = ""
    """RUNYARD_OTLP_ENDPOINT; empty means that no spans are exported."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises:
        InvalidInput: one is missing or wrong; the message names it.
    """
    node_id = _required(environment, "RUNYARD_NODE_ID")
    if not is_name(node_id):
        raise InvalidInput(f"RUNYARD_NODE_ID is {node_id!r}; want 1 to 63 of a-z, 0-9 and -")
    scheduler_address = _required(environment, "RUNYARD_SCHEDULER_ADDRESS")
    gate = _gate(environment, scheduler_address)
    return Settings(
        node_id=node_id,
        gate=gate,
        token=_required(environment, "RUNYARD_AGENT_TOKEN"),
        directory=Path(_required(environment, "RUNYARD_AGENT_DIR")).absolute(),
        scheduler_address=scheduler_address,
        artifact_address=_required(environment, "RUNYARD_ARTIFACT_ADDRESS"),
        bus=BusAddress(
            url=_required(environment, "RUNYARD_NATS_URL"),
            user=_required(environment, "RUNYARD_NATS_USER"),
            password=_required(environment, "RUNYARD_NATS_PASSWORD"),
            gate=gate,
        ),
        slot_count=_number(environment, "RUNYARD_SLOT_COUNT", len(os.sched_getaffinity(0)), least=0),
        spool_bytes_max=_number(environment, "RUNYARD_SPOOL_MEGABYTES", 1024) * MEGABYTE,
        shared_folders=_folders(environment.get("RUNYARD_SHARED_FOLDERS", "")),
        nfs_exports=_exports(environment.get("RUNYARD_NFS_EXPORTS", "")),
        container_rules=ContainerRules(
            network=environment.get("RUNYARD_DOCKER_NETWORK", "") or "bridge",
            shared_memory_bytes=_optional_number(environment, "RUNYARD_SHARED_MEMORY_MEGABYTES") * MEGABYTE,
            image_bytes_max=_optional_number(environment, "RUNYARD_IMAGE_CACHE_MEGABYTES") * MEGABYTE,
        ),
        input_cache_bytes_max=_number(environment, "RUNYARD_INPUT_CACHE_MEGABYTES", 50 * 1024) * MEGABYTE,
        environment_cache_bytes_max=_number(
            environment, "RUNYARD_ENVIRONMENT_CACHE_MEGABYTES", ENVIRONMENT_BYTES_MAX // MEGABYTE
        )
        * MEGABYTE,
        attempt_rules=AttemptRules(
            processes_max=_optional_number(environment, "RUNYARD_PROCESSES_MAX"),
            disk_bytes_max=_optional_number(environment, "RUNYARD_DISK_MEGABYTES") * MEGABYTE,
        ),
        log_level=_log_level(environment.get("RUNYARD_LOG_LEVEL", "") or "INFO"),
        otlp_endpoint=environment.get("RUNYARD_OTLP_ENDPOINT", ""),
    )


def _gate(environment: Mapping[str, str], address: str) -> Gate | None:
    name = "RUNYARD_GATE_CERTIFICATE_FILE"
    path = environment.get(name)
    if not path:
        return None
    try:
        return Gate(address, Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{name}: {error}") from error


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise InvalidInput(
            f"{name} is not set; the agent cannot start without it: has this machine been enrolled?"
        )
    return value


def _optional_number(environment: Mapping[str, str], name: str) -> int:
    return _number(environment, name, 1) if environment.get(name) else 0


def _folders(text: str) -> tuple[Path, ...]:
    folders = tuple(Path(part) for part in text.split(":") if part)
    for folder in folders:
        if not folder.is_absolute():
            raise InvalidInput(f"RUNYARD_SHARED_FOLDERS names {str(folder)!r}; want whole paths")
    return folders


def _exports(text: str) -> tuple[str, ...]:
    exports = tuple(part.strip() for part in text.split(",") if part.strip())
    for export in exports:
        try:
            split_export(export)
        except InvalidInput as error:
            raise InvalidInput(f"RUNYARD_NFS_EXPORTS: {error}") from error
    return exports


def _log_level(text: str) -> str:
    if text.upper() not in logging.getLevelNamesMapping():
        raise InvalidInput(f"RUNYARD_LOG_LEVEL is {text!r}; want DEBUG, INFO, WARNING or ERROR")
    return text.upper()


def _number(environment: Mapping[str, str], name: str, default: int, *, least: int = 1) -> int:
    text = environment.get(name, "") or str(default)
    if not text.isdecimal() or int(text) < least:
        raise InvalidInput(f"{name} is {text!r}; want a whole number from {least}")
    return int(text)
