"""A wrong setting gives one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runyard_agent.container_rules import ContainerRules
from runyard_agent.settings import MEGABYTE, read_settings
from runyard_core.errors import InvalidInput

GOOD = {
    "RUNYARD_NODE_ID": "node-1",
    "RUNYARD_AGENT_TOKEN": "secret-token",
    "RUNYARD_AGENT_DIR": "/var/lib/runyard",
    "RUNYARD_SCHEDULER_ADDRESS": "127.0.0.1:1",
    "RUNYARD_ARTIFACT_ADDRESS": "127.0.0.1:2",
    "RUNYARD_NATS_URL": "nats://127.0.0.1:3",
    "RUNYARD_NATS_USER": "agent-node-1",
    "RUNYARD_NATS_PASSWORD": "secret-password",
}


def test_settings_come_from_the_environment() -> None:
    settings = read_settings({**GOOD, "RUNYARD_SLOT_COUNT": "3", "RUNYARD_SPOOL_MEGABYTES": "7"})

    assert settings.directory == Path("/var/lib/runyard")
    assert (settings.slot_count, settings.spool_bytes_max) == (3, 7 * MEGABYTE)
    assert settings.log_level == "INFO"


def test_operator_says_what_programs_may_see_and_use() -> None:
    settings = read_settings(
        {
            **GOOD,
            "RUNYARD_SHARED_FOLDERS": "/data:/mnt/nfs:",
            "RUNYARD_NFS_EXPORTS": "nas:/export, 10.0.0.1:/data",
            "RUNYARD_DOCKER_NETWORK": "host",
            "RUNYARD_SHARED_MEMORY_MEGABYTES": "64",
        }
    )

    assert settings.shared_folders == (Path("/data"), Path("/mnt/nfs"))
    assert settings.nfs_exports == ("nas:/export", "10.0.0.1:/data")
    with pytest.raises(InvalidInput, match="RUNYARD_NFS_EXPORTS: '/export' is no NFS export"):
        read_settings({**GOOD, "RUNYARD_NFS_EXPORTS": "/export"})
    assert settings.container_rules == ContainerRules(network="host", shared_memory_bytes=64 * MEGABYTE)
    assert read_settings(GOOD).container_rules == ContainerRules()
    with pytest.raises(InvalidInput, match="RUNYARD_SHARED_FOLDERS names 'data'"):
        read_settings({**GOOD, "RUNYARD_SHARED_FOLDERS": "data"})


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(read_settings(GOOD))


def test_a_node_may_have_no_slot() -> None:
    assert read_settings({**GOOD, "RUNYARD_SLOT_COUNT": "0"}).slot_count == 0


@pytest.mark.parametrize("name", GOOD)
def test_missing_setting_is_named(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} is not set"):
        read_settings({**GOOD, name: ""})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNYARD_NODE_ID", "Node 1"),
        ("RUNYARD_SLOT_COUNT", "-1"),
        ("RUNYARD_SLOT_COUNT", "many"),
        ("RUNYARD_SPOOL_MEGABYTES", "-1"),
        ("RUNYARD_SHARED_MEMORY_MEGABYTES", "lots"),
        ("RUNYARD_LOG_LEVEL", "LOUD"),
    ],
)
def test_wrong_setting_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} is '{value}'"):
        read_settings({**GOOD, name: value})
