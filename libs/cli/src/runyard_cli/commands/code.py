"""``runyard code RUN``: the exact code of a run, committed or not."""

from __future__ import annotations

from pathlib import Path

import click

from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode, fail
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import is_json, note, output_option, say_json_object
from runyard_cli.session import converse, get_run
from runyard_cli.table import say_table
from runyard_cli.words import run_name, size_words
from runyard_client import Client
from runyard_client.checkout import read_tree, write_tree
from runyard_contracts.manifest import Entry, Mode
from runyard_core.counted import count_words

_KINDS = {Mode.FILE: "", Mode.EXECUTABLE: "executable", Mode.SYMLINK: "symlink"}


@click.command("code", epilog=examples("code latest", "code digits#2 -d ./as-it-was"))
@click.argument("run")
@project_option
@click.option(
    "-d",
    "--download",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write them into this new folder.",
)
@output_option
def command(run: str, project: str | None, directory: Path | None) -> None:
    """List the files of the code of RUN as they were when it was queued, or write them into a new folder.

    Every file is checked against its SHA-256. No git is needed, and what was never committed is there, too.
    """

    async def work(client: Client) -> tuple[str, tuple[Entry, ...]]:
        found = await get_run(client, full_run_name(run, project))
        tree = found.spec.code.tree_sha256
        if not tree:
            fail(ExitCode.REFUSED, "NO_CODE", f"{run_name(found)} was submitted without code")
        if directory is None:
            return tree, await read_tree(client, tree)
        return tree, await write_tree(client, tree, directory)

    tree, entries = converse(work)
    if is_json():
        files = [
            {"path": each.path, "mode": each.mode, "sha256": each.sha256, "size_bytes": each.size_bytes}
            for each in entries
        ]
        say_json_object({"tree_sha256": tree, "files": files})
    elif directory is None:
        rows = [
            (each.path, size_words(each.size_bytes), each.sha256[:16], _KINDS[each.mode]) for each in entries
        ]
        say_table(("PATH", "SIZE", "SHA-256", ""), rows, right=(1,))
    else:
        note(f"{count_words(len(entries), 'file')} in {directory}, SHA-256 checked")
