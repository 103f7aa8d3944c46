"""``runyard nodes``: every machine with a runner agent."""

from __future__ import annotations

import click

from runyard.node.v1.types_pb2 import Node, NodeState
from runyard.run.v1.scheduler_service_pb2 import ListNodesRequest, ListNodesResponse
from runyard_cli.output import Style, is_json, note, output_option, safe, say, say_json
from runyard_cli.session import converse
from runyard_cli.table import Cell, Row, say_table
from runyard_cli.words import size_words
from runyard_client import Client

_PAGE_SIZE = 1000


@click.command("nodes")
@output_option
def command() -> None:
    """Show every machine: state, slots in use, GPUs, CPUs, memory, Docker."""

    async def ask(client: Client) -> ListNodesResponse:
        return await client.scheduler.ListNodes(ListNodesRequest(page_size=_PAGE_SIZE))

    answer = converse(ask)
    if is_json():
        say_json(answer)
        return
    if not answer.nodes:
        say("no nodes yet: `runyard up` starts one here")
        return
    headings = ("NODE", "STATE", "SLOTS", "GPUS", "CPUS", "MEMORY", "DOCKER", "DRIVER")
    say_table(headings, [node_row(node) for node in answer.nodes], right=(2, 3, 4, 5))
    for node in answer.nodes:
        for warning in node.inventory.warnings:
            note(safe(f"{node.node_id}: {warning}"))


def node_row(node: Node) -> Row:
    """Give the line of a node."""
    inventory = node.inventory
    is_attached = node.state == NodeState.NODE_STATE_ATTACHED
    held = sum(len(reservation.gpu_uuids) for reservation in node.reservations)
    return (
        node.node_id,
        Cell("attached", Style.GOOD) if is_attached else Cell("not heard from", Style.BAD),
        f"{len(node.reservations)} of {inventory.slot_count}",
        f"{held} of {len(inventory.gpus)}",
        str(inventory.cpu_count),
        size_words(inventory.memory_bytes),
        inventory.docker_version or "none",
        inventory.gpu_driver_version or "none",
    )
