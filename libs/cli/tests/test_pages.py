"""Lists that come in pages are shown whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from types import ModuleType
from typing import Protocol, TypeVar, cast

import pytest

from runyard.artifact.v1 import registry_service_pb2 as registry_pb
from runyard.artifact.v1.registry_types_pb2 import Dataset, DatasetVersion, Model, ModelVersion
from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.metric.v1.metric_service_pb2 import GpuReading, ListGpuReadingsRequest, ListGpuReadingsResponse
from runyard.node.v1.types_pb2 import GpuDevice, Node, NodeInventory
from runyard.run.v1.scheduler_service_pb2 import (
    ListNodesRequest,
    ListNodesResponse,
    ListRunsRequest,
    ListRunsResponse,
)
from runyard.run.v1.types_pb2 import Run
from runyard_cli.commands import datasets, gpus, models, ps
from runyard_cli.pages import every_page
from runyard_client import Client

PAGE = 2

T = TypeVar("T")


class Paged(Protocol):
    """Asks for a page."""

    page_token: str


def page_of(things: Sequence[T], request: Paged) -> tuple[Sequence[T], str]:
    """Give a page of things, and the token of the next."""
    first = int(request.page_token or 0)
    after = first + PAGE
    return things[first:after], str(after) if after < len(things) else ""


class Services:
    """A yard with some nodes, which it gives two at a time."""

    def __init__(self, node_count: int) -> None:
        self.scheduler = self.metrics = self
        self.names = [f"n{number}" for number in range(node_count)]

    async def ListNodes(self, request: ListNodesRequest) -> ListNodesResponse:
        names, token = page_of(self.names, request)
        nodes = [
            Node(node_id=name, inventory=NodeInventory(gpus=[GpuDevice(uuid=f"GPU-{name}")]))
            for name in names
        ]
        return ListNodesResponse(nodes=nodes, next_page_token=token, position=7)

    async def ListGpuReadings(self, request: ListGpuReadingsRequest) -> ListGpuReadingsResponse:
        names, token = page_of(self.names, request)
        readings = [
            GpuReading(node_id=name, gpu_uuid=f"GPU-{name}", utilization_percent=73) for name in names
        ]
        return ListGpuReadingsResponse(readings=readings, next_page_token=token)


class Registry:
    """A project with five of each, which it gives two at a time."""

    def __init__(self) -> None:
        self.registry = self

    async def ListDatasets(
        self, request: registry_pb.ListDatasetsRequest
    ) -> registry_pb.ListDatasetsResponse:
        listed, token = page_of([Dataset(name=f"d{number}") for number in range(5)], request)
        return registry_pb.ListDatasetsResponse(datasets=listed, next_page_token=token, position=7)

    async def ListDatasetVersions(
        self, request: registry_pb.ListDatasetVersionsRequest
    ) -> registry_pb.ListDatasetVersionsResponse:
        listed, token = page_of([DatasetVersion(version=f"v{number}") for number in range(5)], request)
        return registry_pb.ListDatasetVersionsResponse(versions=listed, next_page_token=token, position=7)

    async def ListModels(self, request: registry_pb.ListModelsRequest) -> registry_pb.ListModelsResponse:
        listed, token = page_of([Model(name=f"m{number}") for number in range(5)], request)
        return registry_pb.ListModelsResponse(models=listed, next_page_token=token, position=7)

    async def ListModelVersions(
        self, request: registry_pb.ListModelVersionsRequest
    ) -> registry_pb.ListModelVersionsResponse:
        listed, token = page_of([ModelVersion(version=number) for number in range(1, 6)], request)
        return registry_pb.ListModelVersionsResponse(versions=listed, next_page_token=token, position=7)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
async def test_a_list_in_pages_is_put_together(count: int) -> None:
    services = Services(count)
    answer = await every_page(services.ListNodes, ListNodesRequest())
    assert [node.node_id for node in answer.nodes] == services.names
    assert (answer.next_page_token, answer.position) == ("", 7)


async def test_gpus_of_every_page_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    await gpus.show(cast("Client", Services(5)), "", with_processes=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["NODE", "n0", "n1", "n2", "n3", "n4"]
    assert ["73 %" in line for line in lines[1:]] == [True] * 5


@pytest.mark.parametrize(
    ("wanted", "given", "pages"), [(5, 5, [5, 3, 1]), (3, 3, [3, 1]), (2, 2, [2]), (9, 6, [9, 7, 5])]
)
async def test_as_many_runs_are_shown_as_were_asked_for(wanted: int, given: int, pages: list[int]) -> None:
    asked: list[int] = []
    then = ReadOptions(as_of=AsOf(position=7))

    async def list_runs(request: ListRunsRequest) -> ListRunsResponse:
        """Give two at a time of six, as if more did not go into one answer."""
        asked.append(request.page_size)
        assert request.filter == 'step="train"'
        assert request.read == then
        first = int(request.page_token or 0)
        after = min(first + min(2, request.page_size), 6)
        runs = [Run(number=number) for number in range(first, after)]
        return ListRunsResponse(runs=runs, next_page_token=str(after) if after < 6 else "", position=7)

    wish = ListRunsRequest(page_size=wanted, filter='step="train"', read=then)
    answer = await ps.newest(list_runs, wish)
    assert ([run.number for run in answer.runs], asked) == (list(range(given)), pages)


LISTS = [
    (datasets, [], "datasets", "name", ["d0", "d1", "d2", "d3", "d4"]),
    (datasets, ["images"], "versions", "version", ["v0", "v1", "v2", "v3", "v4"]),
    (models, [], "models", "name", ["m0", "m1", "m2", "m3", "m4"]),
    (models, ["net"], "versions", "version", ["1", "2", "3", "4", "5"]),
]


@pytest.mark.parametrize(("module", "name", "field", "key", "whole"), LISTS)
def test_names_of_every_page_are_shown(
    module: ModuleType, name: list[str], field: str, key: str, whole: list[str],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def converse(ask: Callable[[Client], Awaitable[T]]) -> T:
        async def answer() -> T:
            return await ask(cast("Client", Registry()))

        return asyncio.run(answer())

    monkeypatch.setattr(module, "converse", converse)
    command = [*name, "--project", "vision", "--output"]
    module.command.main([*command, "human"], standalone_mode=False)
    table = capsys.readouterr()
    assert ([line.split()[0] for line in table.out.splitlines()[1:]], table.err) == (whole, "")
    module.command.main([*command, "json"], standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)
    assert [str(each[key]) for each in shown[field]] == whole
    assert "next_page_token" not in shown
