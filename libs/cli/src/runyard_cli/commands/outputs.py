"""``runyard outputs RUN``: what a run left behind."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import click

from runyard.artifact.v1.artifact_service_pb2 import ListArtifactsRequest, ListArtifactsResponse
from runyard.artifact.v1.types_pb2 import Artifact
from runyard_cli.examples import examples
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import is_json, note, output_option, say, say_json
from runyard_cli.session import converse, get_run
from runyard_cli.table import say_table
from runyard_cli.transfer import Progress
from runyard_cli.words import count_words, size_words
from runyard_client import Client
from runyard_client.errors import LocalError
from runyard_client.files import download_file
from runyard_contracts.manifest import ManifestError, check_path

_PAGE_SIZE = 1000


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
    """List the files that RUN left behind, or download them."""

    async def work(client: Client) -> ListArtifactsResponse:
        found = await get_run(client, full_run_name(run, project))
        listed = await _list(client, found.run_id, pattern)
        if directory is not None:
            for artifact in listed.artifacts:
                await _download(client, artifact, directory, path_in_run(artifact, found.run_id))
        elif not is_json():
            rows = [
                (path_in_run(each, found.run_id), size_words(each.size_bytes), f"datum://{each.sha256[:16]}")
                for each in listed.artifacts
            ]
            if rows:
                say_table(("PATH", "SIZE", "URI"), rows, right=(1,))
            else:
                say("no outputs" + ("" if pattern == "*" else " like that"))
        return listed

    listed = converse(work)
    if is_json():
        say_json(listed)
    elif directory is not None:
        note(f"{count_words(len(listed.artifacts), 'file')} in {directory}, SHA-256 checked")


async def _list(client: Client, run_id: str, pattern: str) -> ListArtifactsResponse:
    request = ListArtifactsRequest(run_id=run_id, page_size=_PAGE_SIZE)
    listed = ListArtifactsResponse()
    while True:
        page = await client.artifacts.ListArtifacts(request)
        listed.position = page.position
        listed.artifacts.extend(
            each for each in page.artifacts if fnmatchcase(path_in_run(each, run_id), pattern)
        )
        if not page.next_page_token:
            return listed
        request.page_token = page.next_page_token


def path_in_run(artifact: Artifact, run_id: str) -> str:
    """Give the path that a run gave a file; the same bytes may have others elsewhere."""
    for each in artifact.origins:
        if each.origin.run_id == run_id:
            return each.origin.path
    return artifact.name


async def _download(client: Client, artifact: Artifact, directory: Path, path: str) -> None:
    try:
        check_path(path)
    except ManifestError as error:
        raise LocalError("BAD_PATH", f"an output cannot be written here: {error}") from None
    target = directory / path
    target.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(path, artifact.size_bytes)
    try:
        await download_file(client, artifact.sha256, target, on_bytes=progress.add)
    finally:
        progress.close()
    if not is_json():
        say(str(target))
