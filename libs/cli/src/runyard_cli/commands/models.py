"""``runyard models [NAME]``: models, the versions of one, or the files of a version."""

from __future__ import annotations

import click

from runyard.artifact.v1 import registry_service_pb2 as pb
from runyard_cli.examples import examples
from runyard_cli.names import default_project, project_option
from runyard_cli.output import is_json, output_option, say_json, say_list
from runyard_cli.pages import PAGE_SIZE, every_page
from runyard_cli.registry_lines import say_files, say_model_versions, say_models
from runyard_cli.session import converse
from runyard_client import Client

_SCHEME = "model://"


@click.command("models", epilog=examples("models", "models resnet", "models resnet/2 --project digits"))
@click.argument("name", default="", metavar="[NAME[/VERSION]]")
@project_option
@output_option
def command(name: str, project: str | None) -> None:
    """List the models of the project, the versions of NAME, or the files of NAME/VERSION.

    `--input model=model://NAME/VERSION` uses one.
    """
    chosen, name = default_project(project), name.removeprefix(_SCHEME).rstrip("/")
    if not name:
        _list(chosen)
    elif "/" in name:
        _show(chosen, name)
    else:
        _list_versions(chosen, name)


def _list(project: str) -> None:
    async def ask(client: Client) -> pb.ListModelsResponse:
        request = pb.ListModelsRequest(project=project, page_size=PAGE_SIZE)
        return await every_page(client.registry.ListModels, request)

    answer = converse(ask)
    nothing = f"project {project} has no models: outputs with valohai.model-versions make them"
    say_list(answer, answer.models, say_models, nothing=nothing)


def _list_versions(project: str, name: str) -> None:
    async def ask(client: Client) -> pb.ListModelVersionsResponse:
        request = pb.ListModelVersionsRequest(project=project, model=name, page_size=PAGE_SIZE)
        return await every_page(client.registry.ListModelVersions, request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
    else:
        say_model_versions(answer.versions)


def _show(project: str, name: str) -> None:
    async def ask(client: Client) -> pb.GetModelVersionResponse:
        return await client.registry.GetModelVersion(pb.GetModelVersionRequest(project=project, name=name))

    answer = converse(ask)
    if is_json():
        say_json(answer)
    else:
        say_files(answer.version.files)
