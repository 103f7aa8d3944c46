"""``runyard demo``: the example from raw data to a measured model, by commands that a person would type."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from runyard.artifact.v1.artifact_service_pb2 import ListArtifactsRequest
from runyard.cost.v1.cost_service_pb2 import ListPricesRequest
from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode, fail
from runyard_cli.output import Style, note, say, styled
from runyard_cli.run_outputs import newest_outputs
from runyard_cli.session import converse, get_run
from runyard_client import Client
from runyard_embedded.commands.up import bring_up
from runyard_embedded.home import Home

EXAMPLE = Path(__file__).parents[5] / "docs" / "examples" / "digits"
PROJECT = "digits"
PRICE_USD = "0.90"
PRICE_NOTE = "made-up price of the demo"


@click.command("demo", epilog=examples("demo"))
def command() -> None:
    """Start the yard and run the example: digits from raw data to a measured model. The yard stays up."""
    if not EXAMPLE.is_dir():
        fail(ExitCode.USAGE, "NO_EXAMPLE", f"the example is not at {EXAMPLE}: run the demo from a checkout")
    os.environ["RUNYARD_PROJECT"] = PROJECT
    bring_up(Home.from_environment())
    with contextlib.chdir(EXAMPLE):
        if not converse(_has_prices):
            _headline(f"The price book is empty. Setting a {PRICE_NOTE}, so that there is a cost to see.")
            _typed("price", "set", PRICE_USD, "--per", "node-hour", "--note", PRICE_NOTE)
        _headline("Split the data.")
        _run("preprocess")
        data = converse(_outputs)
        _headline("Train a neural network on it.")
        _run("train", "--input", f"training-data={data['train.npz']}")
        model = converse(_outputs)["model.npz"]
        _headline("Measure it on images it has not seen.")
        _run("evaluate", "--input", f"model={model}", "--input", f"test-data={data['test.npz']}")
        _headline("Everything that is known of this run: its record.")
        _typed("show", "latest")
        _headline("What the project cost.")
        _typed("cost", PROJECT)
        _headline("Where the model came from.")
        _typed("trace", model)
    _headline("The yard stays up; `make down` stops it. What to type next:")
    for line in _next_steps():
        say(line)


def _next_steps() -> Iterator[str]:
    if shutil.which("runyard") is None:
        yield "$ . .venv/bin/activate"
    yield "$ runyard ps"
    yield f"$ runyard logs {PROJECT}#latest"
    yield f"$ runyard reproduce {PROJECT}#latest     # again, from its record: does the same come out?"
    yield f"$ runyard history timeline {PROJECT}#latest --with-causes"


def _run(step: str, *arguments: str) -> None:
    # As a process: the demo must work where no image can be had.
    _typed("run", step, *arguments, "--executor", "process", "--follow")


def _typed(*arguments: str) -> None:
    """Run a command as if it had been typed, and end the demo when it fails."""
    from runyard_cli.main import runyard

    say(styled(f"$ runyard {shlex.join(arguments)}", Style.BOLD))
    try:
        code = runyard.main(args=list(arguments), prog_name="runyard", standalone_mode=False)
    except SystemExit as ended:
        code = ended.code
    if code:
        raise SystemExit(code)


def _headline(text: str) -> None:
    say()
    note(styled(text, Style.BUSY))


async def _has_prices(client: Client) -> bool:
    return bool((await client.costs.ListPrices(ListPricesRequest(page_size=1))).prices)


async def _outputs(client: Client) -> dict[str, str]:
    """Give the datum:// reference of each file of the newest run, by path."""
    run = await get_run(client, f"{PROJECT}#latest")
    listed = await client.artifacts.ListArtifacts(ListArtifactsRequest(run_id=run.run_id, page_size=1000))
    return {each.path: f"datum://{each.sha256}" for each in newest_outputs(run.run_id, listed.artifacts)}
