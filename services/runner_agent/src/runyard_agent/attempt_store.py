"""What the agent must not forget about its attempts: grant, state and unacknowledged reports, on disk.

One folder an attempt (see ``runtime``). The agent's own files are below ``record``, apart from what user
code sees. A report is written before it is sent and kept until the scheduler's log has it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from runyard.agent.v1.agent_service_pb2 import (
    AttemptExited,
    AttemptFinished,
    AttemptReport,
    AttemptStarted,
    HeldAttempt,
    InputFetched,
    LeaseGrant,
    RegistryLogin,
)
from runyard.run.v1.types_pb2 import Cause, Environment
from runyard_agent.below import remove_tree, removing_tree
from runyard_agent.disk_reserve import Reserve
from runyard_agent.domain.attempt import AttemptState, Phase, from_json, to_json
from runyard_agent.durable_files import sync_folder, write_atomically
from runyard_contracts.ids import deterministic_id
from runyard_core.errors import Corrupt

logger = logging.getLogger(__name__)

Fact = Environment | AttemptStarted | AttemptExited | AttemptFinished | Cause

# Number and name of each report: it is sent in this order, and made at most once.
_ENVIRONMENT, _STARTED, _EXITED, _FAILED, _FINISHED = (
    "1-environment_captured", "2-started", "3-exited", "4-failed", "5-finished",
)  # fmt: skip
_STATUS, _FETCHED = "2.1-status_detail", "2.2-input_fetched"
_NAMES: dict[type[Fact], str] = {
    Environment: _ENVIRONMENT,
    AttemptStarted: _STARTED,
    AttemptExited: _EXITED,
    Cause: _FAILED,
    AttemptFinished: _FINISHED,
}
# For state and reports of an attempt whose program has filled the disk.
_RESERVED_BYTES = 256 * 1024


class AttemptRecord:
    """The agent's memory of one attempt."""

    def __init__(self, directory: Path, grant: LeaseGrant, state: AttemptState) -> None:
        """As read from disk, or as just created."""
        self.directory = directory
        self.grant = grant
        self.state = state
        self._login_arrived = asyncio.Event()
        self._reserve = Reserve(self._record / "reserve", _RESERVED_BYTES)

    @property
    def key(self) -> tuple[str, int]:
        """Run and attempt."""
        return self.grant.run_id, self.grant.attempt

    @property
    def held(self) -> HeldAttempt:
        """What the scheduler is told that we hold."""
        grant = self.grant
        return HeldAttempt(
            run_id=grant.run_id,
            attempt=grant.attempt,
            epoch=grant.epoch,
            lease_id=grant.lease_id,
            lacks_login=self.lacks_login,
        )

    @property
    def lacks_login(self) -> bool:
        """True when its registry login went with an earlier life of the agent, and is still needed."""
        is_cleared = self.grant.HasField("registry_login") and not self.grant.registry_login.password
        return is_cleared and self.state.phase is Phase.PREPARING

    def take_login(self, grant: LeaseGrant) -> None:
        """Have the registry login again; it may be another one by now, or none."""
        self.grant.ClearField("registry_login")
        if grant.HasField("registry_login"):
            self.grant.registry_login.CopyFrom(grant.registry_login)
        self._login_arrived.set()

    async def wait_for_login(self) -> None:
        """Return when the registry login is there again."""
        while self.lacks_login:
            self._login_arrived.clear()
            await self._login_arrived.wait()

    @property
    def is_over(self) -> bool:
        """True when the scheduler has acknowledged the last report: nothing is left to do."""
        return self._path(_FINISHED, acknowledged=True).exists()

    @property
    def on_demand_folder(self) -> Path:
        """Input files that the program has asked for."""
        return self._record / "on_demand"

    @property
    def call_token(self) -> str:
        """The secret in the addresses of the program's calls; made when first asked for."""
        path = self._record / "call_token"
        if not path.exists():
            write_atomically(path, secrets.token_hex(16).encode())
        return path.read_text(encoding="ascii")

    @property
    def live_outputs_file(self) -> Path:
        """Outputs that were stored while the program ran."""
        return self._record / "live_outputs.jsonl"

    def save(self, state: AttemptState) -> None:
        """Move to another state, on disk first."""
        self._write(self._record / "state.json", json.dumps(to_json(state)).encode())
        self.state = state

    def save_prepared(self, started: AttemptStarted) -> None:
        """Keep what ``started`` will report, should the agent die right after the program was started."""
        self._write(self._record / "started.pb", started.SerializeToString())

    def load_prepared(self) -> AttemptStarted:
        """Give what ``save_prepared`` kept."""
        return AttemptStarted.FromString((self._record / "started.pb").read_bytes())

    def report(self, fact: Fact, occurred_at: datetime) -> bool:
        """Put a report on the way, once; False when it was made before."""
        name = _NAMES[type(fact)]
        if self._is_made(name):
            return False
        report = self._report_of(name, occurred_at)
        match fact:
            case Environment():
                report.environment_captured.CopyFrom(fact)
            case AttemptStarted():
                report.started.CopyFrom(fact)
            case AttemptExited():
                report.exited.CopyFrom(fact)
            case AttemptFinished():
                report.finished.CopyFrom(fact)
            case Cause():
                report.failed.CopyFrom(fact)
        self._write(self._path(name), report.SerializeToString(deterministic=True))
        return True

    def report_status(self, status_detail: str, occurred_at: datetime) -> None:
        """Put the program's status line on the way; each is a report of its own."""
        # In the order of time, and between the start and the end.
        name = f"{_STATUS}-{time.time_ns():020}"
        report = self._report_of(name, occurred_at)
        report.status_detail = status_detail
        self._write(self._path(name), report.SerializeToString(deterministic=True))

    def has_told_fetched(self, name: str, path: str) -> bool:
        """Say whether a file of an input on demand was reported."""
        return self._is_made(_fetched_name(name, path))

    def report_fetched(self, fetched: InputFetched, occurred_at: datetime) -> None:
        """Put on the way what the program got of an input on demand."""
        name = _fetched_name(fetched.input, fetched.file.path)
        report = self._report_of(name, occurred_at)
        report.input_fetched.CopyFrom(fetched)
        self._write(self._path(name), report.SerializeToString(deterministic=True))

    def failed_cause(self) -> Cause | None:
        """Give why the program could not be started, once that was reported: nothing may start it then."""
        for acknowledged in (False, True):
            path = self._path(_FAILED, acknowledged=acknowledged)
            if path.exists():
                return AttemptReport.FromString(path.read_bytes()).failed
        return None

    def pending_reports(self) -> Iterator[AttemptReport]:
        """Give the reports that are not acknowledged, in order."""
        for path in sorted(self._reports.glob("*.pb")):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                # Whoever sends the others waits in between: this one is acknowledged by now.
                continue
            yield AttemptReport.FromString(content)

    def acknowledge(self, report_id: str) -> bool:
        """Take note that the log has a report; False when it is none of this attempt."""
        for path in self._reports.glob(f"{_STATUS}-*.pb"):
            if deterministic_id("report", self.grant.lease_id, path.stem) == report_id:
                path.unlink()
                return True
        # Those that wait only: an attempt may have fetched thousands before.
        fetched = (path.stem for path in self._reports.glob(f"{_FETCHED}-*.pb"))
        for name in (*_NAMES.values(), *fetched):
            if deterministic_id("report", self.grant.lease_id, name) == report_id:
                if self._path(name).exists():
                    self._path(name).rename(self._path(name, acknowledged=True))
                    sync_folder(self._reports)
                return True
        return False

    def removing(self) -> Iterator[None]:
        """Delete the folder with all that is in it, in short steps; it is out of sight after the first."""
        # Out of sight first: a folder that is half deleted must not be found again.
        doomed = self.directory.with_name(f".removed-{self.directory.name}")
        if self.directory.exists():
            self.directory.rename(doomed)
        if not (yield from removing_tree(doomed)):
            logger.error("%s cannot be removed whole; the next start of the agent tries again", doomed)

    def _report_of(self, name: str, occurred_at: datetime) -> AttemptReport:
        report = AttemptReport(
            report_id=deterministic_id("report", self.grant.lease_id, name),
            run_id=self.grant.run_id,
            attempt=self.grant.attempt,
            epoch=self.grant.epoch,
        )
        report.occurred_at.FromDatetime(occurred_at)
        return report

    def _write(self, path: Path, content: bytes) -> None:
        """Write one of our files; on a full disk in the place that was kept for it."""
        self._reserve.spend_on(lambda: write_atomically(path, content))
        self._reserve.take()

    @property
    def _record(self) -> Path:
        return self.directory / "record"

    @property
    def _reports(self) -> Path:
        return self._record / "reports"

    def _is_made(self, name: str) -> bool:
        return self._path(name).exists() or self._path(name, acknowledged=True).exists()

    def _path(self, name: str, *, acknowledged: bool = False) -> Path:
        return self._reports / f"{name}.{'acknowledged' if acknowledged else 'pb'}"


class AttemptStore:
    """The folder of all attempts."""

    def __init__(self, directory: Path) -> None:
        """Open the folder; what was left half deleted goes now."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        for doomed in directory.glob(".*"):
            if not remove_tree(doomed):
                logger.error("%s cannot be removed whole", doomed)

    def load(self) -> list[AttemptRecord]:
        """Give the attempts that an earlier life of the agent held.

        Raises:
            Corrupt: ATTEMPT_UNREADABLE. Its program may be running, so nobody may start it again.
        """
        return [_load(path.parent) for path in sorted(self._directory.glob("*/record/state.json"))]

    def create(self, grant: LeaseGrant, state: AttemptState) -> AttemptRecord:
        """Hold a new attempt; it is held once this returns."""
        name = f"{grant.run_id}-{grant.attempt}"
        making = self._directory / f".making-{name}"
        remove_tree(making)
        (making / "record" / "reports").mkdir(parents=True, mode=0o700)
        write_atomically(making / "record" / "grant.pb", _kept(grant).SerializeToString())
        write_atomically(making / "record" / "state.json", json.dumps(to_json(state)).encode())
        directory = self._directory / name
        making.rename(directory)
        sync_folder(self._directory)
        return AttemptRecord(directory, grant, state)


def _fetched_name(name: str, path: str) -> str:
    return f"{_FETCHED}-{deterministic_id('fetched', name, path)}"


def _kept(grant: LeaseGrant) -> LeaseGrant:
    """Give what of a grant may lie on a disk: a login of a registry is worth more than one run."""
    kept = LeaseGrant()
    kept.CopyFrom(grant)
    if kept.HasField("registry_login"):
        kept.registry_login.CopyFrom(RegistryLogin(registry=grant.registry_login.registry))
    return kept


def _load(record: Path) -> AttemptRecord:
    try:
        grant = LeaseGrant.FromString((record / "grant.pb").read_bytes())
        state = from_json(json.loads((record / "state.json").read_bytes()))
    except (ValueError, KeyError, TypeError, OSError, DecodeError) as error:
        raise Corrupt(
            f"{record} cannot be read ({error}); when no program of it runs, move {record.parent} away",
            code="ATTEMPT_UNREADABLE",
        ) from error
    return AttemptRecord(record.parent, grant, state)
