"""``runyard gpus``: every GPU and who holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import click

from runyard.metric.v1.gpus_pb2 import GpuProcessOwner
from runyard.metric.v1.metric_service_pb2 import GpuProcess, GpuReading, ListGpuReadingsRequest
from runyard.node.v1.types_pb2 import Node, NodeState
from runyard.run.v1.scheduler_service_pb2 import GetNodeRequest, ListNodesRequest
from runyard_cli.examples import examples
from runyard_cli.gpu_words import process_words, reading_words
from runyard_cli.output import Style, is_json, note, output_option, safe, say, say_json
from runyard_cli.pages import PAGE_SIZE, every_page
from runyard_cli.session import converse, get_run
from runyard_cli.table import Cell, Row, say_table
from runyard_cli.words import run_name, short_run_id, size_words
from runyard_client import Client


@click.command("gpus", epilog=examples("gpus", "gpus --node gpu-1 --processes"))
@click.option("--node", default="", metavar="NODE", help="Only of this machine.")
@click.option("--processes", is_flag=True, help="Name every process that holds memory.")
@output_option
def command(node: str, *, processes: bool) -> None:
    """Show every GPU: who holds it, utilisation, memory, power, temperature, clock, and what is wrong."""
    converse(lambda client: show(client, node, with_processes=processes))


async def show(client: Client, node_id: str, *, with_processes: bool) -> None:
    """Write every GPU of a node, or of all when it has no name."""
    nodes, readings = await asyncio.gather(
        _nodes(client, node_id),
        every_page(
            client.metrics.ListGpuReadings, ListGpuReadingsRequest(node_id=node_id, page_size=PAGE_SIZE)
        ),
    )
    if is_json():
        say_json(readings)
        return
    newest = {reading.gpu_uuid: reading for reading in readings.readings}
    names: dict[str, str] = {}
    for node in nodes:
        for reservation in node.reservations:
            if reservation.gpu_uuids and reservation.run_id not in names:
                names[reservation.run_id] = run_name(await get_run(client, reservation.run_id))
    rows = [row for node in nodes for row in gpu_rows(node, newest, names)]
    if rows:
        headings = ("NODE", "GPU", "MODEL", "HELD BY", "USE", "MEMORY", "POWER", "TEMP", "CLOCK", "UUID")
        say_table(headings, rows, right=(1, 4, 5, 6, 7, 8))
        for node in nodes:
            for line in gpu_notes(node, newest, names, with_processes=with_processes):
                note(safe(line))
    else:
        known = ", ".join(node.node_id for node in nodes)
        say(f"no GPUs on {known}" if nodes else "no nodes yet")


async def _nodes(client: Client, node_id: str) -> Sequence[Node]:
    if node_id:
        return [(await client.scheduler.GetNode(GetNodeRequest(node_id=node_id))).node]
    return (await every_page(client.scheduler.ListNodes, ListNodesRequest(page_size=PAGE_SIZE))).nodes


def gpu_rows(node: Node, readings: dict[str, GpuReading], run_names: dict[str, str]) -> list[Row]:
    """Give a line for each GPU of a node."""
    holders = {
        uuid: run_names.get(reservation.run_id, short_run_id(reservation.run_id))
        for reservation in node.reservations
        for uuid in reservation.gpu_uuids
    }
    is_attached = node.state == NodeState.NODE_STATE_ATTACHED
    rows: list[Row] = []
    for gpu in node.inventory.gpus:
        reading = readings.get(gpu.uuid)
        holder = holders.get(gpu.uuid)
        measured = reading_words(reading, gpu) if reading is not None else ("",) * 5
        held = Cell("free" if is_attached else "node silent", Style.FAINT)
        if gpu.unusable_reason:
            held = Cell(f"{holder}, failed" if holder else "unusable", Style.BAD)
        elif holder:
            held = Cell(holder, Style.BUSY)
        elif is_attached and _processes(reading):
            # Nothing is placed there: the notes below say whose processes they are.
            held = Cell("others", Style.BAD)
        rows.append((node.node_id, str(gpu.index), gpu.model, held, *measured, gpu.uuid))
    return rows


def gpu_notes(
    node: Node, readings: dict[str, GpuReading], run_names: dict[str, str], *, with_processes: bool
) -> Iterator[str]:
    """Say why a GPU cannot be used, what it is cut into, and which processes do not belong there."""
    for gpu in node.inventory.gpus:
        name = f"{node.node_id} GPU {gpu.index}"
        if gpu.unusable_reason:
            yield f"{name} is not used: {gpu.unusable_reason}"
        for each in gpu.mig_devices:
            yield f"{name} has MIG device {each.profile}, {size_words(each.memory_bytes)}, {each.uuid}"
        for process in _processes(readings.get(gpu.uuid)):
            if with_processes or process.owner != GpuProcessOwner.GPU_PROCESS_OWNER_HOLDER:
                yield f"{name}: {process_words(process, run_names)}"


def _processes(reading: GpuReading | None) -> Sequence[GpuProcess]:
    """Give the processes that a GPU has now, as far as is known."""
    return () if reading is None or reading.behind_milliseconds else reading.processes
