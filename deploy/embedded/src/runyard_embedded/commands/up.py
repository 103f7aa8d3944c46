"""``runyard up``: start the yard of this home, here or in the background."""

from __future__ import annotations

import contextlib
import errno
import os
import time

import click

from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode, fail
from runyard_cli.output import Style, is_json, note, output_option, say, say_json_object, styled
from runyard_core.errors import RunyardError
from runyard_embedded.home import Home
from runyard_embedded.settings import GATE_LISTEN, LOG_RESTORED
from runyard_embedded.state import Phase, YardState, read_state
from runyard_embedded.yard_ports import GATE, had_gate

ATTACH_SECONDS_MAX = 90.0
LOOK_SECONDS = 0.1


@click.command("up", epilog=examples("up", "up --background", "up --background --listen 0.0.0.0:7443"))
@click.option("--background", is_flag=True, help="Return when everything is up; `runyard down` stops it.")
@click.option("--listen", metavar="ADDRESS[:PORT]", help="Let agents of other machines in here, by TLS.")
@click.option("--restored", is_flag=True, help="The database was put back: give the log a new identity.")
@output_option
def command(background: bool, listen: str | None, restored: bool) -> None:
    """Start engines, services and one agent under $RUNYARD_HOME (~/.runyard).

    All of them listen on loopback only. With --listen a gate before them lets agents of other machines in;
    0.0.0.0 stands for every address of this machine.
    """
    home = Home.from_environment()
    began = time.monotonic()
    _require_no_import(home)
    _make(home)
    if restored:
        _require_down(home)
        os.environ[LOG_RESTORED] = "1"  # also for the process in the background
    if listen:
        _require_gate(home)
        os.environ[GATE_LISTEN] = listen
    if background:
        _up_in_background(home)
        _say_up(home, began)
    else:
        _up_here(home, began)


def _make(home: Home) -> None:
    try:
        home.make()
        if not os.access(home.folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        fail(
            ExitCode.USAGE,
            "BAD_SETTING",
            f"{home.folder} cannot hold a yard: {error.strerror}",
            "RUNYARD_HOME names another folder.",
        )


def _require_down(home: Home) -> None:
    state = read_state(home)
    if state is not None and state.is_alive:
        fail(
            ExitCode.REFUSED,
            "YARD_ALREADY_UP",
            f"the yard under {home.folder} is up, and has read the log already",
            "Stop it first: runyard down",
        )


def _require_no_import(home: Home) -> None:
    """Refuse a home with the log of another yard in it: what `runyard history` says would be of that one."""
    from runyard_replay.imported import FILE

    if (home.folder / FILE).exists():
        fail(
            ExitCode.REFUSED,
            "HOME_HAS_IMPORT",
            f"{home.folder} holds an imported log, to look into with `runyard history`",
            "Name another RUNYARD_HOME for a yard.",
        )


def _require_gate(home: Home) -> None:
    """Refuse where the yard is up without one: only a start can open it."""
    state = read_state(home)
    if state is not None and state.is_alive and GATE not in state.processes:
        fail(
            ExitCode.REFUSED,
            "YARD_ALREADY_UP",
            f"the yard under {home.folder} is up, and has no gate",
            "Stop it first: runyard down --keep-runs",
        )


class Progress:
    """Says each process once when it is up, and what happens to it later."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seen: dict[str, Phase] = {}

    def follow(self, state: YardState) -> None:
        """Compare with what was said before."""
        for process in state.processes.values():
            if self._seen.get(process.name) == process.phase or is_json():
                continue
            self._seen[process.name] = process.phase
            seconds = time.monotonic() - self._began
            if process.phase is Phase.UP:
                where = f" on 127.0.0.1:{process.port}" if process.port else ""
                if process.name == GATE:
                    where = f" for other machines on port {process.port}"
                mark = styled("up", Style.GOOD)
                note(f"{process.name:<10} {mark}{where} after {seconds:.1f} s")
            elif process.phase in {Phase.RESTARTING, Phase.FAILED}:
                note(f"{process.name:<10} {process.phase.value}: {process.detail}")


def bring_up(home: Home) -> None:
    """Start the yard in the background, or find it up; ends the program when it cannot be."""
    _require_no_import(home)
    _make(home)
    _up_in_background(home)


def _up_in_background(home: Home) -> None:
    from runyard_embedded.background import start_in_background

    try:
        start_in_background(home, Progress().follow)
    except RunyardError as error:
        if error.code == "YARD_ALREADY_UP":
            _attach(home)
        else:
            _explain(home, error)


def _up_here(home: Home, began: float) -> None:
    from runyard_embedded.settings import YardSettings, forget_secrets
    from runyard_embedded.supervise import AlreadyUp, supervise

    progress = Progress()
    told = False

    def publish(state: YardState) -> None:
        nonlocal told
        progress.follow(state)
        if state.supervisor.phase is Phase.UP and not told:
            told = True
            _say_up(home, began)
            note("Ctrl-C stops it.")

    try:
        settings = YardSettings.from_environment(os.environ)
        forget_secrets(os.environ)
        supervise(home, settings, publish)
        _say_down(home)
    except AlreadyUp:
        _attach(home)
        _say_up(home, began)
    except RunyardError as error:
        _explain(home, error)


def _attach(home: Home) -> None:
    """Wait until the yard that another process starts is up."""
    deadline = time.monotonic() + ATTACH_SECONDS_MAX
    while True:
        state = read_state(home)
        if state is not None and state.is_alive and state.supervisor.phase is Phase.UP:
            note(f"the yard under {home.folder} is up already (supervisor {state.supervisor.pid})")
            return
        if time.monotonic() > deadline:
            fail(
                ExitCode.FAILED,
                "YARD_NOT_UP",
                f"another process holds the yard under {home.folder}, but it does not come up",
                f"See {home.logs / 'supervisor.log'}.",
            )
        time.sleep(LOOK_SECONDS)  # its only sign of life is a file


def _explain(home: Home, error: RunyardError) -> None:
    lines = error.metadata.get("last_lines", "")
    if lines:
        note(lines)
    fail(
        ExitCode.USAGE if error.code == "BAD_SETTING" else ExitCode.FAILED,
        error.code,
        error.message,
        f"Nothing was left running. Logs are in {home.logs}.",
    )


def _say_up(home: Home, began: float) -> None:
    state = read_state(home)
    if is_json():
        ports = {name: process.port for name, process in state.processes.items()} if state else {}
        say_json_object({"home": str(home.folder), "ports": ports})
    else:
        say(f"The yard is up under {home.folder} after {time.monotonic() - began:.1f} s.")
    if state is not None and GATE not in state.processes and had_gate(home):
        note("It had a gate before and has none now: no other machine reaches it. --listen opens it again.")


def _say_down(home: Home) -> None:
    from runyard_embedded import stopping
    from runyard_embedded.commands.down import down_words

    # A terminal that was closed ends the yard, too, and takes no more words.
    with contextlib.suppress(OSError):
        if not is_json():
            note(down_words(len(stopping.running_attempts(home))))
