"""``runyard get URI``: download a file."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path, PurePosixPath

import click

from runyard.artifact.v1.artifact_service_pb2 import ResolveInputsRequest
from runyard.artifact.v1.types_pb2 import Artifact
from runyard.run.v1.types_pb2 import Input
from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode, fail
from runyard_cli.names import default_project, may_be_id, project_option
from runyard_cli.output import is_json, note, output_option, say, say_json
from runyard_cli.session import converse
from runyard_cli.transfer import Progress
from runyard_cli.words import size_words
from runyard_client import Client
from runyard_client.files import download_file, find_artifact
from runyard_core.counted import count_words

_NAMED = frozenset({"datum", "dataset", "model"})


@click.command(
    "get",
    epilog=examples(
        "get datum://5d0266a9 -o model.npz", "get 5d0266a993df -o - | sha256sum", "get model://resnet/2"
    ),
)
@click.argument("uri")
@click.option(
    "-o", "--to", metavar="FILE", help="Where to; a folder keeps the file's name, - is standard output."
)
@project_option
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@output_option
def command(uri: str, to: str | None, project: str | None, force: bool) -> None:
    """Download URI and check its bytes: a SHA-256, its first 8 digits or more, or a reference.

    References are datum://SHA256 or an alias, and dataset://NAME/VERSION or model://NAME/VERSION of one file.
    """

    async def get(client: Client) -> tuple[Artifact, Path | None]:
        artifact = await find_artifact(client, await _one_file(client, uri, default_project(project)))
        if to == "-":
            with tempfile.TemporaryDirectory(prefix="runyard-get-") as scratch:
                whole = Path(scratch, "file")
                await _download(client, artifact, whole)
                await asyncio.to_thread(_print, whole)
            return artifact, None
        target = _target(artifact, to)
        if target.exists() and not force:
            fail(
                ExitCode.USAGE,
                "FILE_EXISTS",
                f"{target} is there already",
                "--force replaces it, -o names another.",
            )
        await _download(client, artifact, target)
        return artifact, target

    artifact, target = converse(get)
    if target is None:
        return
    if is_json():
        say_json(artifact)
    else:
        say(str(target))
        note(f"{size_words(artifact.size_bytes)}, SHA-256 checked")


async def _one_file(client: Client, uri: str, project: str) -> str:
    """Give the SHA-256 of the file that an alias or version stands for; other names as they are."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in _NAMED or (scheme == "datum" and may_be_id(rest)):
        return uri
    asked = [Input(name="file", uris=[uri])]
    resolved = await client.artifacts.ResolveInputs(ResolveInputsRequest(inputs=asked, project=project))
    files = resolved.inputs[0].files
    if len(files) != 1:
        fail(
            ExitCode.REFUSED,
            "NOT_ONE_FILE",
            f"{uri} has {count_words(len(files), 'file')}",
            f"`runyard {scheme}s {rest}` lists them.",
        )
    return files[0].sha256


async def _download(client: Client, artifact: Artifact, target: Path) -> None:
    progress = Progress(artifact.name, artifact.size_bytes)
    try:
        await download_file(client, artifact.sha256, target, on_bytes=progress.add)
    finally:
        progress.close()


def _print(path: Path) -> None:
    with path.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)


def _target(artifact: Artifact, to: str | None) -> Path:
    # The name was chosen by whoever made the file: only its last part, and never a way out of the folder.
    name = PurePosixPath(artifact.name).name
    safe_name = name if name not in {"", ".", ".."} and "\0" not in name else artifact.sha256
    if to is None:
        return Path(safe_name)
    return Path(to) / safe_name if Path(to).is_dir() else Path(to)
