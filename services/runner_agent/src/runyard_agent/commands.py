"""What a person types on a GPU machine: ``runyard-agent enroll | run | check | unit | uninstall``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from runyard_agent.container_rules import ContainerRules
from runyard_agent.enrolled import Enrolled, agent_directory
from runyard_agent.enrolment import enroll, read_token
from runyard_agent.folder_lock import is_locked
from runyard_agent.gate import fetch_gate
from runyard_agent.json_logging import is_news
from runyard_agent.machine_check import MachineReport, check_machine, describe
from runyard_contracts.token_text import is_address
from runyard_core.errors import Conflict, InvalidInput, NotFound

_TOKEN_VARIABLE = "RUNYARD_ENROLMENT_TOKEN"  # noqa: S105 - the name of a variable


def parser() -> argparse.ArgumentParser:
    """Give the parser of the command line; without a command the agent runs."""
    made = argparse.ArgumentParser(
        prog="runyard-agent", description="Runs attempts on this machine for a yard."
    )
    made.add_argument("--directory", type=Path, help="the agent's folder (RUNYARD_AGENT_DIR)")
    commands = made.add_subparsers(dest="command", metavar="COMMAND")
    enrolling = commands.add_parser("enroll", help="make this machine a node of a yard")
    enrolling.add_argument(
        "--token", help=f"from `runyard nodes invite` (or {_TOKEN_VARIABLE}, or - to be asked)"
    )
    enrolling.add_argument("--server", metavar="HOST:PORT", help="the yard, if not as the token says")
    enrolling.add_argument("--again", action="store_true", help="replace this machine's enrolment")
    commands.add_parser("run", help="run the agent; also without a command")
    commands.add_parser("check", help="say what this machine has, and whether its yard lets it in")
    commands.add_parser("unit", help="print a systemd unit for this installation")
    removing = commands.add_parser("uninstall", help="remove everything that the agent ever wrote here")
    removing.add_argument("--force", action="store_true", help="end attempts that run")
    return made


@contextlib.contextmanager
def nobody_may_read() -> Iterator[None]:
    """Let what is still to be written go nowhere when whoever read standard output has gone: no failure."""
    try:
        yield
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def run_command(arguments: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Do what was asked, other than running the agent.

    Raises:
        RunyardError: it cannot be done; the message says why.
    """
    directory = arguments.directory.absolute() if arguments.directory else agent_directory(environment)
    match arguments.command:
        case "enroll":
            text = _token_text(arguments.token, environment)
            _enroll(directory, text, arguments.server, again=arguments.again)
        case "check":
            return _check(directory)
        case "unit":
            from runyard_agent.systemd_unit import unit_text

            _say(unit_text().removesuffix("\n"))
        case "uninstall":
            _uninstall(directory, force=arguments.force)
        case _:
            raise AssertionError(arguments.command)
    return 0


def _enroll(directory: Path, token_text: str, server: str | None, *, again: bool) -> None:
    token = read_token(token_text)
    if server and not is_address(server):
        raise InvalidInput(f"--server is {server!r}; want HOST:PORT", code="BAD_SERVER")
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    known = Enrolled.load(directory)
    if known is not None and not again:
        raise Conflict(
            f"this machine is node {known.node_id} of the yard at {known.address} already; "
            "--again replaces that",
            code="ALREADY_ENROLLED",
        )
    if is_locked(directory):
        raise Conflict(f"an agent runs in {directory}; stop it first", code="AGENT_RUNNING")
    try:
        # First the certificate: nothing is told to anybody else.
        gate = fetch_gate(server or token.address, token.certificate_sha256)
        report = _look(directory, token.node_id)
        enrolled = asyncio.run(enroll(directory, token, gate, report.inventory))
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                directory.rmdir()  # unless something came of it
    for line in describe(report):
        _say(line)
    _say(f"node      {enrolled.node_id} of the yard at {enrolled.address}")
    _say(f"Enrolled. `runyard-agent run` starts the agent; its folder is {directory}.")


def _check(directory: Path) -> int:
    from runyard_agent.connection_check import check_connections

    enrolled = Enrolled.load(directory)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for line in describe(_look(directory, enrolled.node_id if enrolled else "none")):
        _say(line)
    if enrolled is None:
        with contextlib.suppress(OSError):
            directory.rmdir()  # made only to look at its disk
        _say("node      none: this machine has not enrolled")
        return 1
    _say(f"node      {enrolled.node_id} of the yard at {enrolled.address}")
    _say(f"agent     {'runs' if is_locked(directory) else 'does not run'}")
    logging.getLogger("asyncio").addFilter(is_news)
    found = asyncio.run(check_connections(enrolled, enrolled.gate(directory)))
    for name, problem in found.items():
        _say(f"{name:<9} {problem or 'lets this node in'}")
    return 1 if any(found.values()) else 0


def _uninstall(directory: Path, *, force: bool) -> None:
    from runyard_agent.systemd_unit import UNIT_PATH
    from runyard_agent.uninstall import uninstall

    if not directory.exists() and not UNIT_PATH.exists():
        raise NotFound(f"no agent is installed here: {directory} does not exist", code="NOT_INSTALLED")
    enrolled = Enrolled.load(directory)
    uninstall(directory, force=force, tell=_say)
    if enrolled is not None:
        _say(f"At the yard, `runyard nodes revoke {enrolled.node_id}` takes its credential away.")


def _look(directory: Path, node_id: str) -> MachineReport:
    slot_count = len(os.sched_getaffinity(0))
    return asyncio.run(check_machine(directory, node_id, slot_count, ContainerRules()))


def _token_text(option: str | None, environment: Mapping[str, str]) -> str:
    text = option or environment.get(_TOKEN_VARIABLE, "")
    if text == "-":
        import getpass

        text = getpass.getpass("Token: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not text:
        raise InvalidInput(f"no token: --token, or {_TOKEN_VARIABLE}", code="NO_TOKEN")
    return text


def _say(line: str) -> None:
    # What was begun is done to its end, also when nobody reads on: an agent must not be half removed.
    with nobody_may_read():
        sys.stdout.write(line + "\n")
