"""Lists that come in pages are shown whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, cast

import pytest

from runyard.metric.v1.metric_service_pb2 import GpuReading, ListGpuReadingsRequest, ListGpuReadingsResponse
from runyard.node.v1.types_pb2 import GpuDevice, Node, NodeInventory
from runyard.run.v1.scheduler_service_pb2 import ListNodesRequest, ListNodesResponse
from runyard_cli.commands import gpus
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
