"""``runyard put FILE``: upload a file."""

from __future__ import annotations

from pathlib import Path

import click

from runyard.artifact.v1.artifact_service_pb2 import CommitUploadResponse
from runyard_cli.examples import examples
from runyard_cli.names import default_project, project_option
from runyard_cli.output import is_json, output_option, say, say_json
from runyard_cli.session import converse
from runyard_cli.transfer import Progress
from runyard_client import Client
from runyard_client.files import upload_file


@click.command(
    "put", epilog=examples("put ./train.npz", "put ./train.npz --name images-2026.npz --project digits")
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", default="", metavar="NAME", help="Another name than the file's own.")
@project_option
@output_option
def command(file: Path, name: str, project: str | None) -> None:
    """Upload FILE and print its datum:// reference. Bytes that the yard has are not sent again."""
    progress = Progress(file.name, file.stat().st_size)

    async def put(client: Client) -> CommitUploadResponse:
        try:
            return await upload_file(
                client,
                file,
                name=name,
                project=default_project(project),
                on_hashed=progress.add_hashed,
                on_bytes=progress.add,
            )
        finally:
            progress.close()

    answer = converse(put)
    if is_json():
        say_json(answer)
    else:
        say(f"datum://{answer.artifact.sha256}")
