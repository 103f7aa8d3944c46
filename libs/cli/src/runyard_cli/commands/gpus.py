"""``runyard gpus``: every GPU and who holds it."""

from __future__ import annotations

import asyncio

import click

from runyard.metric.v1.metric_service_pb2 import GpuReading, ListGpuReadingsRequest
from runyard.node.v1.types_pb2 import Node, NodeState
from runyard.run.v1.scheduler_service_pb2 import ListNodesRequest
from runyard_cli.output import Style, is_json, output_option, say, say_json
from runyard_cli.session import converse, get_run
from runyard_cli.table import Cell, Row, say_table
from runyard_cli.words import run_name, size_words
from runyard_client import Client

_PAGE_SIZE = 1000


@click.command("gpus")
@click.option("--node", default="", metavar="NODE", help="Only of this machine.")
@output_option
def command(node: str) -> None:
    """Show every GPU: who holds it, utilisation, memory, power, temperature."""
    converse(lambda client: _show(client, node))


async def _show(client: Client, node_id: str) -> None:
    listed, readings = await asyncio.gather(
        client.scheduler.ListNodes(ListNodesRequest(page_size=_PAGE_SIZE)),
        client.metrics.ListGpuReadings(ListGpuReadingsRequest(node_id=node_id)),
    )
    if is_json():
        say_json(readings)
        return
    nodes = [node for node in listed.nodes if node_id in {"", node.node_id}]
    newest = {reading.gpu_uuid: reading for reading in readings.readings}
    names: dict[str, str] = {}
    for node in nodes:
        for reservation in node.reservations:
            if reservation.gpu_uuids and reservation.run_id not in names:
                names[reservation.run_id] = run_name(await get_run(client, reservation.run_id))
    rows = [row for node in nodes for row in gpu_rows(node, newest, names)]
    if rows:
        headings = ("NODE", "GPU", "MODEL", "HELD BY", "USE", "MEMORY", "POWER", "TEMP", "UUID")
        say_table(headings, rows, right=(1, 4, 5, 6, 7))
    else:
        known = ", ".join(node.node_id for node in nodes)
        say(f"no GPUs on {known}" if nodes else "no nodes" + (f" called {node_id}" if node_id else " yet"))


def gpu_rows(node: Node, readings: dict[str, GpuReading], run_names: dict[str, str]) -> list[Row]:
    """Give a line for each GPU of a node."""
    holders = {
        uuid: run_names.get(reservation.run_id, reservation.run_id[:8])
        for reservation in node.reservations
        for uuid in reservation.gpu_uuids
    }
    is_attached = node.state == NodeState.NODE_STATE_ATTACHED
    rows: list[Row] = []
    for gpu in node.inventory.gpus:
        reading = readings.get(gpu.uuid)
        holder = holders.get(gpu.uuid)
        free = "free" if is_attached else "node silent"
        measured = ("", "", "", "")
        if reading is not None:
            measured = (
                f"{reading.utilization_percent} %",
                f"{size_words(reading.memory_used_bytes)} of {size_words(gpu.memory_bytes)}",
                f"{reading.power_milliwatts / 1000:.0f} W",
                f"{reading.temperature_celsius} C",
            )
        held = Cell(holder, Style.BUSY) if holder else Cell(free, Style.FAINT)
        rows.append((node.node_id, str(gpu.index), gpu.model, held, *measured, gpu.uuid))
    return rows
