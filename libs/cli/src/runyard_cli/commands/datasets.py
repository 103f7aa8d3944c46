"""``runyard datasets [NAME]``: datasets, the versions of one, or the files of a version."""

from __future__ import annotations

from collections.abc import Sequence

import click

from runyard.artifact.v1 import registry_service_pb2 as pb
from runyard.artifact.v1.registry_types_pb2 import Dataset, DatasetVersion
from runyard_cli.names import default_project, project_option
from runyard_cli.output import is_json, output_option, say, say_json
from runyard_cli.registry_lines import say_files
from runyard_cli.session import converse
from runyard_cli.table import Row, say_table
from runyard_cli.words import size_words, time_words
from runyard_client import Client

_PAGE_SIZE = 1000
_SCHEME = "dataset://"


@click.command("datasets")
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
        request = pb.ListDatasetsRequest(project=project, page_size=_PAGE_SIZE)
        return await client.registry.ListDatasets(request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
    elif not answer.datasets:
        say(f"project {project} has no datasets: outputs with valohai.dataset-versions make them")
    else:
        say_table(("DATASET", "VERSIONS", "NEWEST", "SINCE"), dataset_rows(answer.datasets), right=(1,))


def _list_versions(project: str, name: str) -> None:
    async def ask(client: Client) -> pb.ListDatasetVersionsResponse:
        request = pb.ListDatasetVersionsRequest(project=project, dataset=name, page_size=_PAGE_SIZE)
        return await client.registry.ListDatasetVersions(request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
    elif not answer.versions:
        say(f"project {project} has no dataset {name}: `runyard datasets` lists them")
    else:
        headings = ("VERSION", "ALIASES", "FILES", "SIZE", "CREATED", "BY RUN", "FROM")
        say_table(headings, version_rows(answer.versions), right=(2, 3))


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


def dataset_rows(datasets: Sequence[Dataset]) -> list[Row]:
    """Give the lines of datasets."""
    return [
        (each.name, str(each.version_count), each.newest_version, time_words(each.newest_at))
        for each in datasets
    ]


def version_rows(versions: Sequence[DatasetVersion]) -> list[Row]:
    """Give the lines of a dataset's versions."""
    return [
        (
            each.version,
            ", ".join(each.aliases),
            str(each.file_count),
            size_words(each.size_bytes),
            time_words(each.created_at),
            each.origin.run_id[:8],
            each.from_version.removeprefix(_SCHEME),
        )
        for each in versions
    ]
