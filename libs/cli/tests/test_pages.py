"""Lists that come in pages are shown whole."""

from __future__ import annotations

from typing import cast

import pytest

from runyard.metric.v1.metric_service_pb2 import ListGpuReadingsRequest, ListGpuReadingsResponse
from runyard.node.v1.types_pb2 import GpuDevice, Node, NodeInventory
from runyard.run.v1.scheduler_service_pb2 import ListNodesRequest, ListNodesResponse
from runyard_cli.commands import gpus
from runyard_cli.pages import every_page
from runyard_client import Client

PAGE = 2


class Services:
    """A yard with some nodes, which it gives two at a time."""

    def __init__(self, node_count: int) -> None:
        self.scheduler = self.metrics = self
        self.names = [f"n{number}" for number in range(node_count)]

    async def ListNodes(self, request: ListNodesRequest) -> ListNodesResponse:
        first = int(request.page_token or 0)
        inventory = NodeInventory(gpus=[GpuDevice(uuid="GPU-1")])
        nodes = [Node(node_id=name, inventory=inventory) for name in self.names[first : first + PAGE]]
        after = first + PAGE
        token = str(after) if after < len(self.names) else ""
        return ListNodesResponse(nodes=nodes, next_page_token=token, position=7)

    async def ListGpuReadings(self, _request: ListGpuReadingsRequest) -> ListGpuReadingsResponse:
        return ListGpuReadingsResponse()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
async def test_a_list_in_pages_is_put_together(count: int) -> None:
    services = Services(count)
    answer = await every_page(services.ListNodes, ListNodesRequest())
    assert [node.node_id for node in answer.nodes] == services.names
    assert (answer.next_page_token, answer.position) == ("", 7)


async def test_gpus_of_every_page_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    await gpus.show(cast("Client", Services(5)), "", with_processes=False)
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["NODE", "n0", "n1", "n2", "n3", "n4"]


async def test_a_node_behind_the_first_page_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    await gpus.show(cast("Client", Services(5)), "n4", with_processes=False)
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "n4"
