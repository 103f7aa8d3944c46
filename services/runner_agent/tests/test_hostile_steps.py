"""Steps that mean harm, all at once on one agent beside a quiet run: each ends alone, by what limited it."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import AttemptFinished
from runyard.metric.v1.batches_pb2 import LogChunkRecorded, LogStream
from runyard.run.v1.types_pb2 import CauseCode, Resources
from runyard_agent.limits import look_at_machine

from .running_agent import cache, yard
from .scripted_yard import ScriptedYard

__all__ = ["cache", "yard"]

pytestmark = [pytest.mark.system, pytest.mark.faults, pytest.mark.timeout(1500)]

STDOUT, STATUS = LogStream.LOG_STREAM_STDOUT, LogStream.LOG_STREAM_STATUS
PROCESSES_MAX = 120


@dataclass(frozen=True)
class Dose:
    """How much of each harm."""

    line_bytes: int
    lines: int
    outputs: int
    disk_megabytes: int
    seconds_max: int


DOSES = {
    "": Dose(10_000_000, 50_000, 200, 60, 50),
    "tenth": Dose(100_000_000, 1_000_000, 2_000, 400, 1200),
    "whole": Dose(1_000_000_000, 10_000_000, 20_000, 3_000, 1200),
}
DOSE = DOSES[os.environ.get("RUNYARD_FAULT_DOSE", "")]


@pytest.fixture
def agent_changes() -> dict[str, str]:
    return {"RUNYARD_PROCESSES_MAX": str(PROCESSES_MAX), "RUNYARD_DISK_MEGABYTES": str(DOSE.disk_megabytes)}


@dataclass(frozen=True)
class Seen:
    """How a step ended, and what it said."""

    finished: AttemptFinished
    lines: list[str]
    status: list[str]

    @property
    def code(self) -> str:
        return CauseCode.Name(self.finished.cause.code).removeprefix("CAUSE_CODE_")

    @property
    def outputs(self) -> list[str]:
        return [file.path for file in self.finished.outputs]


@dataclass(frozen=True)
class Step:
    """A step, and what must be true of its end."""

    commands: str
    check: Callable[[Seen], None]
    memory_bytes_max: int = 0


def ends_with(code: str, detail: str = "", exit_code: int | None = None) -> Callable[[Seen], None]:
    def check(seen: Seen) -> None:
        cause = seen.finished.cause
        assert (seen.code, detail in cause.detail) == (code, True), cause
        assert exit_code is None or cause.exit_code == exit_code

    return check


def printed(lines: list[str]) -> Callable[[Seen], None]:
    def check(seen: Seen) -> None:
        assert seen.code == "SUCCEEDED", seen.finished.cause
        assert seen.lines == lines

    return check


def one_long_line(seen: Seen) -> None:
    assert seen.code == "SUCCEEDED"
    assert sum(map(len, seen.lines)) == DOSE.line_bytes
    assert max(map(len, seen.lines)) <= 64 * 1024
    assert set("".join(seen.lines[:3])) == {"x"}


def many_lines(seen: Seen) -> None:
    assert seen.code == "SUCCEEDED"
    assert seen.lines == [str(number) for number in range(1, DOSE.lines + 1)]


def binary(seen: Seen) -> None:
    assert seen.code == "SUCCEEDED"
    assert seen.lines[-1] == "end of noise"
    assert not [line for line in seen.lines if "\x00" in line]


def tricks(seen: Seen) -> None:
    assert seen.code == "OUTPUT_UNAVAILABLE"
    assert seen.outputs == ["good", "two\nlines"]
    said = "\n".join(seen.status)
    assert "symlink to '/etc/passwd', outside the outputs folder" in said
    assert "'pipe' is skipped: it is a named pipe" in said


def shut_off(seen: Seen) -> None:
    assert (seen.code, seen.outputs) == ("SUCCEEDED", ["kept"])


def many_outputs(seen: Seen) -> None:
    assert seen.code == "SUCCEEDED"
    listed = seen.finished.output_list
    assert DOSE.outputs == (listed.file_count or len(seen.outputs))
    if DOSE is DOSES["whole"]:
        assert listed.sha256
        assert 5_000 < len(seen.outputs) < DOSE.outputs


STEPS = {
    "quiet": Step("for n in 1 2 3 4 5 6; do echo $n; sleep 0.3; done", printed(list("123456"))),
    "long line": Step(f"head -c {DOSE.line_bytes} /dev/zero | tr '\\0' x; echo", one_long_line),
    "many lines": Step(f"seq {DOSE.lines}", many_lines),
    "binary": Step("head -c 300000 /dev/urandom; echo; echo end of noise", binary),
    "chmod": Step(
        "echo kept > $VH_OUTPUTS_DIR/kept; mkdir d; echo x > d/f; chmod 000 d/f d;"
        " chmod -R 000 $VH_OUTPUTS_DIR/* $HOME $VH_INPUTS_DIR; chmod 000 $VH_OUTPUTS_DIR . || true",
        shut_off,
    ),
    "disk": Step(
        "n=0; while :; do n=$((n+1)); head -c 4000000 /dev/zero > $VH_OUTPUTS_DIR/$n; rm -f keep; done",
        ends_with("DISK_LIMIT", "bytes of the disk"),
    ),
    "one large file": Step(
        "head -c 9G /dev/zero > $VH_OUTPUTS_DIR/all && echo no limit; rm $VH_OUTPUTS_DIR/all; echo over",
        printed(["over"]),
    ),
    "hole": Step("truncate -s 1T $VH_OUTPUTS_DIR/huge || echo refused", printed(["refused"])),
    "parent": Step("sleep 0.3; kill -9 $PPID; sleep 100", ends_with("AGENT_LOST", "without writing an exit")),
    "closed streams": Step("exec 1>&- 2>&- 0>&-; sleep 0.2; exit 3", ends_with("USER_ERROR", exit_code=3)),
    "daemons": Step(
        "for n in $(seq 20); do (setsid sh -c 'trap \"\" TERM HUP; sleep 999 & wait' &); done; echo left",
        printed(["left"]),
    ),
    "memory": Step(
        "exec python -c 'held = [bytearray(1 << 20) for _ in range(900)]'",
        ends_with("OOM_HOST", "limit"),
        memory_bytes_max=100 << 20,
    ),
    "tricks": Step(
        "cd $VH_OUTPUTS_DIR; ln -s /etc/passwd a; ln -s ../state/command b; ln -s ../../.. c; mkfifo pipe;"
        " echo x > good; echo x > 'two\nlines'; printf x > $(printf 'bad\\377'); ln good hard && rm hard",
        tricks,
    ),
    "small outputs": Step(
        f"cd $VH_OUTPUTS_DIR; for n in $(seq {DOSE.outputs}); do echo $n > a-name-that-says-nothing-$n; done",
        many_outputs,
    ),
}
BOMB = Step(
    "bomb() { bomb | bomb & }; bomb; sleep 1; echo over", ends_with("SUCCEEDED", "could start no process")
)


async def test_hostile_steps_harm_neither_the_agent_nor_each_other(
    yard: ScriptedYard, tmp_path: Path
) -> None:
    steps = dict(STEPS)
    limits = look_at_machine(tmp_path)
    limits.close()
    if "pids" in limits.trees:
        steps["fork bomb"] = BOMB
    # Once before, so that no environment is made while the machine is busy.
    await yard.finished(yard.scheduler.grant("true"))
    grants = {
        name: yard.scheduler.grant(step.commands, resources=Resources(memory_bytes_max=step.memory_bytes_max))
        for name, step in steps.items()
    }

    problems, finished = [], {}
    for name, grant in grants.items():
        try:
            finished[name] = (await yard.finished(grant, DOSE.seconds_max)).finished
        except TimeoutError as error:
            problems.append(f"{name}: {error!r}")
    said = lines_by_run(yard)
    for name, end in finished.items():
        lines = said[grants[name].run_id]
        try:
            steps[name].check(Seen(end, lines[STDOUT], lines[STATUS]))
        except AssertionError as error:
            problems.append(f"{name}: {error!r}"[:2000])

    assert problems == []
    assert yard.agent.process is not None
    assert yard.agent.process.poll() is None
    assert "failed inside the agent" not in yard.agent.log
    async with asyncio.timeout(20):
        await yard.scheduler.wait_for(lambda: not yard.scheduler.held)
        # Thousands of files take a while, in which leases are renewed.
        while any((yard.agent.directory / "attempts").iterdir()):  # noqa: ASYNC110 - the agent removes them
            await asyncio.sleep(0.05)
    assert living_below(yard.agent.directory) == []


def lines_by_run(yard: ScriptedYard) -> dict[str, dict[LogStream.ValueType, list[str]]]:
    """Give what each run printed, by stream; fails when a line is missing or doubled."""
    found: dict[str, dict[LogStream.ValueType, list[str]]] = {}
    following: dict[str, int] = {}
    for message in yard.ledger.messages():
        if isinstance(message, LogChunkRecorded):
            run_id = message.attempt.run_id
            assert message.first_line_number == following.get(run_id, 1)
            following[run_id] = message.first_line_number + len(message.lines)
            of_run = found.setdefault(run_id, defaultdict(list))
            for stream, line in zip(message.streams, message.lines, strict=True):
                of_run[stream].append(line)
    return found


def living_below(directory: Path) -> list[str]:
    """Give what lives below a folder: as its command line or its environment names it."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and int(process.name) != os.getpid():
                said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                if os.fsencode(directory / "attempts") in said:
                    found.append(said.decode(errors="replace"))
        except OSError:
            continue
    return found
