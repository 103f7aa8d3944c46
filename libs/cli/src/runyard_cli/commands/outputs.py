"""``runyard outputs RUN``: what a run left behind."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import click

from runyard.artifact.v1.artifact_service_pb2 import ListArtifactsRequest, ListArtifactsResponse
from runyard_cli.examples import examples
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import is_json, note, output_option, safe, say, say_json
from runyard_cli.pages import PAGE_SIZE, every_page
from runyard_cli.run_outputs import RunOutput, outputs_of
from runyard_cli.session import converse, get_run
from runyard_cli.table import Row, say_table
from runyard_cli.transfer import Progress
from runyard_cli.words import size_words
from runyard_client import Client
from runyard_client.errors import LocalError
from runyard_client.files import download_file
from runyard_client.store import TRANSFER_COUNT_MAX
from runyard_contracts.manifest import ManifestError, check_path
from runyard_core.counted import count_words
from runyard_core.fan_out import fan_out


@click.command(
    "outputs",
    epilog=examples("outputs latest", "outputs 3 -d ./results", "outputs digits#2 --filter '*.npz'"),
)
@click.argument("run")
@project_option
@click.option("-f", "--filter", "pattern", default="*", metavar="GLOB", help="Only files whose path matches.")
@click.option(
    "-d",
    "--download",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Download them into this folder.",
)
@output_option
def command(run: str, project: str | None, pattern: str, directory: Path | None) -> None:
    """List the files that RUN left behind, or download them.

    Of a path that was stored several times while the program ran, every version is listed, and the newest is
    downloaded; `runyard get` has the others.
    """

    async def work(client: Client) -> tuple[ListArtifactsResponse, Sequence[RunOutput]]:
        found = await get_run(client, full_run_name(run, project))
        listed = await _list(client, found.run_id, pattern)
        files = [
            each for each in outputs_of(found.run_id, listed.artifacts) if fnmatchcase(each.path, pattern)
        ]
        if directory is not None:
            files = [each for each in files if each.is_newest]
            await _download(client, files, directory)
        return listed, files

    listed, files = converse(work)
    if is_json():
        say_json(listed)
    elif directory is not None:
        for each in files:
            say(safe(str(directory / each.path)))
        note(f"{count_words(len(files), 'file')} in {directory}, SHA-256 checked")
    elif files:
        say_table(*output_rows(files), right=(1,))
    else:
        say("no outputs" + ("" if pattern == "*" else " like that"))


def output_rows(files: Sequence[RunOutput]) -> tuple[Sequence[str], Sequence[Row]]:
    """Give headings and rows of a table of files, with their versions where a path has several."""
    rows = [(each.path, size_words(each.size_bytes), f"datum://{each.sha256[:16]}") for each in files]
    if all(each.version_count == 1 for each in files):
        return ("PATH", "SIZE", "URI"), rows
    versions = [f"{each.version} of {each.version_count}" if each.version_count > 1 else "" for each in files]
    return ("PATH", "SIZE", "URI", "VERSION"), [
        (*row, version) for row, version in zip(rows, versions, strict=True)
    ]


async def _list(client: Client, run_id: str, pattern: str) -> ListArtifactsResponse:
    request = ListArtifactsRequest(run_id=run_id, page_size=PAGE_SIZE)
    listed = await every_page(client.artifacts.ListArtifacts, request)
    wanted = [
        artifact
        for artifact in listed.artifacts
        if any(
            each.origin.run_id == run_id and fnmatchcase(each.origin.path, pattern)
            for each in artifact.origins
        )
    ]
    return ListArtifactsResponse(artifacts=wanted, position=listed.position)


async def _download(client: Client, files: Sequence[RunOutput], directory: Path) -> None:
    for each in files:
        try:
            check_path(each.path)
        except ManifestError as error:
            raise LocalError("BAD_PATH", f"an output cannot be written here: {error}") from None
    progress = Progress(count_words(len(files), "file"), sum(each.size_bytes for each in files))

    async def fetch(each: RunOutput) -> None:
        target = directory / each.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LocalError("FILE_UNREADABLE", f"{error.filename}: {error.strerror}") from None
        await download_file(client, each.sha256, target, on_bytes=progress.add)

    try:
        await fan_out(TRANSFER_COUNT_MAX, fetch, files)
    finally:
        progress.close()
