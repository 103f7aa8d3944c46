"""``runyard nodes``: every machine with a runner agent; its subcommands are in ``node_access``."""

from __future__ import annotations

import click

from runyard.node.v1.types_pb2 import Node, NodeState
from runyard.run.v1.scheduler_service_pb2 import ListNodesRequest, ListNodesResponse
from runyard_cli.commands.node_access import invite, revoke
from runyard_cli.examples import examples
from runyard_cli.output import Style, is_json, note, output_option, safe, say, say_json
from runyard_cli.pages import PAGE_SIZE, every_page
from runyard_cli.session import converse
from runyard_cli.table import Cell, Row, say_table
from runyard_cli.words import size_words
from runyard_client import Client

_STATES = {
    NodeState.NODE_STATE_ATTACHED: Cell("attached", Style.GOOD),
    NodeState.NODE_STATE_INVITED: Cell("invited", Style.BUSY),
    NodeState.NODE_STATE_REVOKED: Cell("revoked", Style.FAINT),
}


@click.group(
    "nodes",
    epilog=examples("nodes", "nodes --output json", "nodes invite gpu-1", "nodes revoke gpu-1"),
    invoke_without_command=True,
)
@output_option
@click.pass_context
def command(context: click.Context) -> None:
    """Show every machine: state, slots in use, GPUs, CPUs, memory, Docker.

    `invite` lets another machine become a node, `revoke` throws one out.
    """
    if context.invoked_subcommand is None:
        _show()


command.add_command(invite)
command.add_command(revoke)


def _show() -> None:
    async def ask(client: Client) -> ListNodesResponse:
        return await every_page(client.scheduler.ListNodes, ListNodesRequest(page_size=PAGE_SIZE))

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
    held = sum(len(reservation.gpu_uuids) for reservation in node.reservations)
    return (
        node.node_id,
        _STATES.get(node.state, Cell("not heard from", Style.BAD)),
        f"{len(node.reservations)} of {inventory.slot_count}",
        f"{held} of {len(inventory.gpus)}",
        str(inventory.cpu_count),
        size_words(inventory.memory_bytes),
        inventory.docker_version or "none",
        inventory.gpu_driver_version or "none",
    )
