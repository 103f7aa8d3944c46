"""Exports of a real NFS server, as steps ask for them in their YAML: seen read-only, and recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import AttemptFinished, LeaseGrant
from runyard.metric.v1.batches_pb2 import LogStream
from runyard.run.v1.types_pb2 import CauseCode, CodeRef, Executor, RunSpec
from runyard_agent import folder_look
from runyard_runspec import RunOptions, build_run_spec, parse_config

from .own_kernel import needs_own_kernel, run
from .running_agent import cache, mounts, yard
from .scripted_yard import ScriptedYard

__all__ = ["cache", "yard"]

pytestmark = [pytest.mark.system, needs_own_kernel, pytest.mark.timeout(600)]

EXPORTED = Path("/srv/sets")
EXPORTS = Path("/etc/exports.d/runyard.exports")
STDOUT, STATUS = LogStream.LOG_STREAM_STDOUT, LogStream.LOG_STREAM_STATUS

YAML = """
- step:
    name: train
    image: none
    command: {command}
    mounts:
      - source: {source}
        destination: /sets
        type: nfs
        options: {{vers: "4.2", soft: true}}
"""


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    (EXPORTED / "sub").mkdir(parents=True, exist_ok=True)
    (EXPORTED / "a.txt").write_text("of the server\n")
    (EXPORTED / "sub/b.bin").write_bytes(b"123456")
    EXPORTED.chmod(0o777)
    EXPORTS.parent.mkdir(exist_ok=True)
    # The server lets anybody write: what keeps a program from it is how it is mounted.
    EXPORTS.write_text(f"{EXPORTED} localhost(rw,sync,no_subtree_check,no_root_squash,insecure)\n")
    run("systemctl", "start", "nfs-kernel-server")
    run("exportfs", "-ra")
    yield
    EXPORTS.unlink()
    run("systemctl", "stop", "nfs-kernel-server")


@pytest.fixture
def agent_changes() -> dict[str, str]:
    return {"RUNYARD_NFS_EXPORTS": "localhost:/srv"}


def spec_of(command: str, source: str) -> RunSpec:
    config = parse_config(YAML.format(command=command, source=source))
    options = RunOptions(executor=Executor.EXECUTOR_PROCESS)
    return build_run_spec(config, "train", parameters={}, inputs={}, code=CodeRef(), options=options)


def grant(yard: ScriptedYard, command: str, source: str = "localhost:/srv/sets") -> LeaseGrant:
    spec = spec_of(command, source)
    return yard.scheduler.grant(*spec.command_lines, mounts=spec.mounts)


async def finished(yard: ScriptedYard, wanted: LeaseGrant) -> AttemptFinished:
    return (await yard.finished(wanted, 300)).finished


async def test_a_program_reads_an_export_cannot_write_to_it_and_the_record_says_what_it_saw(
    yard: ScriptedYard,
) -> None:
    wanted = grant(
        yard,
        "cat /sets/a.txt; grep ' /sets ' /proc/self/mounts; touch /sets/new || echo refused;"
        " grep -c nfs4 /proc/1/mounts || true",
    )

    end = await finished(yard, wanted)

    assert end.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED, end.cause
    said = yard.ledger.lines(wanted, STDOUT)
    assert said[0] == "of the server"
    device, place, kind, options = said[1].split()[:4]
    assert (device, place, kind) == ("localhost:/srv/sets", "/sets", "nfs4")
    assert {"ro", "nosuid", "nodev", "soft", "vers=4.2"} <= set(options.split(","))
    # Neither written to, nor seen by the machine.
    assert said[2:] == ["refused", "0"]
    assert sorted(os.listdir(EXPORTED)) == ["a.txt", "sub"]
    assert "localhost:/srv/sets" not in mounts()
    captured = (await yard.scheduler.report(wanted, "environment_captured")).environment_captured
    [record] = captured.mounts
    assert (record.source, record.destination) == ("localhost:/srv/sets", "/sets")
    assert (record.file_system, record.device) == ("nfs", "localhost:/srv/sets")
    assert (record.file_count, record.size_bytes, record.fingerprint) == folder_look.look(str(EXPORTED))


async def test_a_change_on_the_server_is_another_fingerprint(yard: ScriptedYard) -> None:
    seen = []
    for content in (b"123456", b"654321"):
        (EXPORTED / "sub/b.bin").write_bytes(content)
        wanted = grant(yard, "sha256sum < /sets/sub/b.bin")
        assert (await finished(yard, wanted)).cause.code == CauseCode.CAUSE_CODE_SUCCEEDED
        captured = (await yard.scheduler.report(wanted, "environment_captured")).environment_captured
        seen.append((captured.mounts[0].fingerprint, *yard.ledger.lines(wanted, STDOUT)))
    (one, one_hash), (other, other_hash) = seen
    assert one != other
    assert one_hash != other_hash


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("localhost:/srv/none", "mount"),
        ("localhost:/other", "does not mount it for runs"),
        ("elsewhere:/srv/sets", "does not mount it for runs"),
    ],
)
async def test_what_cannot_be_mounted_is_an_environment_that_is_not_there(
    yard: ScriptedYard, source: str, reason: str
) -> None:
    wanted = grant(yard, "echo not reached", source)

    end = await finished(yard, wanted)

    assert end.cause.code == CauseCode.CAUSE_CODE_ENVIRONMENT_UNAVAILABLE
    assert f"{source} cannot be shown at /sets" in end.cause.detail
    assert reason in end.cause.detail
    print(end.cause.detail)
    assert yard.ledger.lines(wanted, STDOUT) == []


async def test_an_agent_that_is_killed_leaves_the_mount_to_its_program(yard: ScriptedYard) -> None:
    wanted = grant(yard, "echo ready; until [ -e go ]; do sleep 0.1; done; cat /sets/a.txt")
    await yard.scheduler.report(wanted, "started", 300)
    yard.agent.kill()
    yard.agent.start()
    (yard.agent.directory / "attempts" / f"{wanted.run_id}-1" / "repository" / "go").touch()

    end = await finished(yard, wanted)

    assert end.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED, end.cause
    assert yard.ledger.lines(wanted, STDOUT) == ["ready", "of the server"]
    assert "nfs4" not in mounts()
