"""``runyard datasets [NAME]``: datasets, the versions of one, or the files of a version."""

from __future__ import annotations

import click

from runyard.artifact.v1 import registry_service_pb2 as pb
from runyard_cli.examples import examples
from runyard_cli.names import default_project, project_option
from runyard_cli.output import is_json, output_option, say_json, say_list
from runyard_cli.pages import PAGE_SIZE, every_page
from runyard_cli.registry_lines import say_dataset_versions, say_datasets, say_files
from runyard_cli.session import converse
from runyard_client import Client

_SCHEME = "dataset://"


@click.command(
    "datasets", epilog=examples("datasets", "datasets images", "datasets images/newest --project digits")
)
@click.argument("name", default="", metavar="[NAME[/VERSION]]")
@project_option
@output_option
def command(name: str, project: str | None) -> None:
    """List the datasets of the project, the versions of NAME, or the files of NAME/VERSION.

    An alias may stand for the version. `--input data=dataset://NAME/VERSION` uses one.
    """
    chosen, name = default_project(project), name.removeprefix(_SCHEME).rstrip("/")
    if not name:
        _list(chosen)
    elif "/" in name:
        _show(chosen, name)
    else:
        _list_versions(chosen, name)


def _list(project: str) -> None:
    async def ask(client: Client) -> pb.ListDatasetsResponse:
        request = pb.ListDatasetsRequest(project=project, page_size=PAGE_SIZE)
        return await every_page(client.registry.ListDatasets, request)

    answer = converse(ask)
    nothing = f"project {project} has no datasets: outputs with valohai.dataset-versions make them"
    say_list(answer, answer.datasets, say_datasets, nothing=nothing)


def _list_versions(project: str, name: str) -> None:
    async def ask(client: Client) -> pb.ListDatasetVersionsResponse:
        request = pb.ListDatasetVersionsRequest(project=project, dataset=name, page_size=PAGE_SIZE)
        return await every_page(client.registry.ListDatasetVersions, request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
    else:
        say_dataset_versions(answer.versions)


def _show(project: str, name: str) -> None:
    async def ask(client: Client) -> pb.GetDatasetVersionResponse:
        return await client.registry.GetDatasetVersion(
            pb.GetDatasetVersionRequest(project=project, name=name)
        )

    answer = converse(ask)
    if is_json():
        say_json(answer)
    else:
        say_files(answer.version.files)
