"""``runyard down``: stop everything of this home and leave no process, unless told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from runyard_cli.asking import ask_first
from runyard_cli.examples import examples
from runyard_cli.output import is_json, note, output_option, say, say_json_object
from runyard_embedded.home import Home

if TYPE_CHECKING:
    from runyard_embedded.stopping import RunningAttempt


@click.command("down", epilog=examples("down", "down --keep-runs", "down --force"))
@click.option("--force", is_flag=True, help="Stop runs that are training, too, without asking.")
@click.option("--keep-runs", is_flag=True, help="Let them train on; the next `runyard up` takes them back.")
@output_option
def command(force: bool, keep_runs: bool) -> None:
    """Stop the yard. Asks first when something is training."""
    from runyard_embedded import stopping

    if force and keep_runs:
        raise click.UsageError("--force and --keep-runs exclude each other")
    home = Home.from_environment()
    attempts = stopping.running_attempts(home)
    if attempts and not force and not keep_runs:
        _ask(attempts)
    if attempts and not keep_runs:
        note(f"stopping {_names(attempts)}")
        stopping.stop_attempts(home, attempts)
    was_up = stopping.stop_supervisor(home)
    left = stopping.running_attempts(home)
    if left and not keep_runs:
        stopping.kill_attempts(left)
    if is_json():
        say_json_object({"was_up": was_up, "kept_attempts": [a.label for a in left] if keep_runs else []})
    elif was_up or (keep_runs and left):
        say(down_words(len(left) if keep_runs else 0))
    else:
        say(f"No yard was up under {home.folder}.")


def down_words(kept_count: int) -> str:
    """Say that the yard is down, and how many attempts train on without it."""
    kept = f" {_train(kept_count)} on; the next `runyard up` takes that back." if kept_count else ""
    return f"The yard is down.{kept}"


def _ask(attempts: Sequence[RunningAttempt]) -> None:
    what = f"{_train(len(attempts), 'still ')}: {_names(attempts)}"
    ask_first(
        f"{what}. Stop them?",
        reason="RUNS_ARE_TRAINING",
        message=what,
        advice="`runyard down --force` stops them, `runyard down --keep-runs` lets them train on.",
    )


def _names(attempts: Sequence[RunningAttempt]) -> str:
    return ", ".join(attempt.run_name() for attempt in attempts)


def _train(count: int, how: str = "") -> str:
    return f"{count} attempt{' ' if count == 1 else 's '}{how}train{'s' if count == 1 else ''}"
