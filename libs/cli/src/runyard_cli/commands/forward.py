"""``runyard forward RUN PORT[:LOCAL]``: a port of a running attempt, on this machine."""

from __future__ import annotations

import asyncio
import signal

import click

from runyard_cli.examples import examples
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import output_option
from runyard_cli.session import converse
from runyard_client import Client

_PORT_MAX = 65_535


class PortPair(click.ParamType[tuple[int, int]]):
    """The port of the run, and the one here: "6006" or "6006:8080"."""

    name = "PORT[:LOCAL]"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read a pair of ports."""
        remote, colon, local = str(value).partition(":")
        texts = (remote, local if colon else remote)
        if not all(text.isdecimal() and int(text) <= _PORT_MAX for text in texts) or int(remote) < 1:
            self.fail(
                f'{value!r}: want a port of the run like "6006", or "6006:8080" with one here', param, ctx
            )
        return int(texts[0]), int(texts[1])


@click.command(
    "forward", epilog=examples("forward latest 6006", "forward digits#2 8888:18888", "forward latest 5678:0")
)
@click.argument("run")
@click.argument("ports", type=PortPair(), metavar="PORT[:LOCAL]")
@project_option
@output_option
def command(run: str, ports: tuple[int, int], project: str | None) -> None:
    """Let this machine reach PORT of the running attempt of RUN at 127.0.0.1:LOCAL, until ctrl-C.

    For TensorBoard, a debugger, a notebook. LOCAL is PORT unless given; 0 takes any that is free.
    """
    remote_port, local_port = ports
    name = full_run_name(run, project)

    async def work(client: Client) -> None:
        # Imported here: usage errors should not pay for it.
        from runyard_cli.forwarding import Forwarding

        forwarding = Forwarding(client, name, remote_port, local_port)
        serving = asyncio.create_task(forwarding.run())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        try:
            await serving
        except asyncio.CancelledError:
            # How it is meant to end.
            forwarding.say_end()

    converse(work)
