"""Wires the agent by hand: settings in, running agent out."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import Coroutine, Sequence
from datetime import timedelta

from runyard.metric.v1.batches_pb2 import SamplesMissing
from runyard.node.v1.types_pb2 import NodeInventory
from runyard_agent import gpus, host
from runyard_agent.artifact_client import ArtifactClient
from runyard_agent.attempt_store import AttemptStore
from runyard_agent.call_server import CallServer
from runyard_agent.content_cache import ContentCache
from runyard_agent.executors import DockerOnDemand, Executors, ProcessExecutor
from runyard_agent.folder_lock import locked
from runyard_agent.foreign_watch import ForeignWatch
from runyard_agent.hands_on import HandsOn
from runyard_agent.input_sources import InputRules
from runyard_agent.known_addresses import KnownAddresses
from runyard_agent.limits import look_at_machine
from runyard_agent.loop import Attempts
from runyard_agent.machine_check import take_inventory
from runyard_agent.node import Node
from runyard_agent.orphans import Orphans
from runyard_agent.package_lists import PackageLists
from runyard_agent.publisher import Publisher
from runyard_agent.s3_inputs import input_credentials
from runyard_agent.sampling import Sampling
from runyard_agent.settings import Settings
from runyard_agent.spool import Spool
from runyard_agent.telemetry import Telemetry
from runyard_agent.telemetry_envelope import envelope_bytes
from runyard_agent.transfers import Transfers
from runyard_agent.uplink import Uplink
from runyard_contracts.ids import SpoolId
from runyard_core.clock import Clock, SystemClock
from runyard_core.task_group import TaskGroup

logger = logging.getLogger(__name__)

# A store or service that is down for a day must not cost a run its inputs or outputs.
_PATIENCE_SECONDS = 24 * 3600.0
_CANCEL_AGAIN_SECONDS = 1.0


async def run_agent(settings: Settings) -> None:
    """Run the agent until SIGTERM or SIGINT. Attempts go on without it.

    Raises:
        Conflict: AGENT_RUNNING, another agent uses the same folder.
    """
    settings.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(locked(settings.directory))
        clock = SystemClock()
        spool = _spool(settings, stack, clock)
        gpu_reader = gpus.open_gpus()
        stack.callback(gpu_reader.close)
        cache_dir = settings.directory / "cache"
        docker = DockerOnDemand(settings.node_id, cache_dir, settings.container_rules)
        stack.callback(docker.close)
        telemetry = Telemetry(spool, settings.node_id, clock)
        sampling = Sampling(telemetry, gpu_reader)
        limits = look_at_machine(settings.directory)
        process = await ProcessExecutor.open(
            cache_dir, os.environ.get("PATH", os.defpath), limits, settings.environment_cache_bytes_max
        )
        inventory = functools.partial(
            take_inventory,
            *(settings.directory, settings.slot_count, gpu_reader, process, docker),
            nfs_exports=settings.nfs_exports,
        )
        node = _node(settings, stack, clock, await inventory(), Executors(process, docker), sampling)
        attempts = Attempts(node, AttemptStore(settings.directory / "attempts"), telemetry)
        uplink = Uplink(
            settings.scheduler_address, settings.token, settings.node_id, inventory, attempts, settings.gate
        )
        foreign_watch = ForeignWatch(
            gpu_reader,
            sampling.watched_pids,
            uplink.tell_foreign,
            clock,
            node.boot_id,
            settings.directory / "foreign-processes.json",
        )
        sampling.gpus.health_changed = uplink.inventory_changed
        sampling.gpus.foreign_pids = foreign_watch.told_pids
        attempts.reports_changed, attempts.held_changed = uplink.reports_changed, uplink.held_changed
        hands_on = HandsOn(attempts, node.executors, uplink.open_own_channel, settings.token)
        uplink.hands_on_ordered = hands_on.take
        orphans = Orphans(settings.directory / "attempts", docker, limits, attempts.names)
        publisher = Publisher(spool, settings.node_id, settings.bus)
        ready = asyncio.Event()
        others = [spool.keep_synced(), publisher.run(), sampling.run(), foreign_watch.run()]
        await _run_until_stopped(attempts, uplink, ready, [*others, hands_on.run(ready), orphans.run(ready)])


def _spool(settings: Settings, stack: contextlib.AsyncExitStack, clock: Clock) -> Spool:
    spool = Spool(
        settings.directory / "spool",
        functools.partial(_filler, settings.node_id, clock),
        bytes_max=settings.spool_bytes_max,
        node_id=settings.node_id,
    )
    stack.callback(spool.close)
    return spool


def _node(
    settings: Settings,
    stack: contextlib.AsyncExitStack,
    clock: Clock,
    inventory: NodeInventory,
    executors: Executors,
    sampling: Sampling,
) -> Node:
    calls = CallServer(settings.directory / "calls.port")
    stack.push_async_callback(calls.close)
    artifact_client = _artifact_client(settings, stack)
    contents = settings.directory / "cache" / "content"
    return Node(
        node_id=settings.node_id,
        boot_id=host.boot_id(),
        booted_at=clock.now() - timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME)),
        inventory=inventory,
        executors=executors,
        artifact_client=artifact_client,
        cache=ContentCache(contents, size_bytes_max=settings.input_cache_bytes_max),
        sampling=sampling,
        clock=clock,
        package_lists=PackageLists(artifact_client),
        known_addresses=KnownAddresses(contents.with_name("addresses.jsonl")),
        input_rules=InputRules(settings.shared_folders, input_credentials(os.environ), settings.nfs_exports),
        attempt_rules=settings.attempt_rules,
        calls=calls,
    )


def _artifact_client(settings: Settings, stack: contextlib.AsyncExitStack) -> ArtifactClient:
    transfers = Transfers(gate=settings.gate)
    stack.callback(transfers.close)
    client = ArtifactClient(
        settings.artifact_address,
        settings.token,
        transfers,
        patience_seconds=_PATIENCE_SECONDS,
        gate=settings.gate,
    )
    stack.push_async_callback(client.close)
    return client


async def _run_until_stopped(
    attempts: Attempts, uplink: Uplink, ready: asyncio.Event, others: Sequence[Coroutine[None, None, None]]
) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with TaskGroup() as group:
        works = (attempts.run(ready), *others, _attach_when(ready, uplink))
        parts = {group.create_task(work, name=getattr(work, "__qualname__", repr(work))) for work in works}
        asked = group.create_task(stopping.wait())
        ended, _ = await asyncio.wait((asked, *parts), return_when=asyncio.FIRST_COMPLETED)
        if asked not in ended:
            # Without one of them it would look well and do half of its work: whoever keeps it starts it anew.
            names = ", ".join(part.get_name() for part in ended)
            raise RuntimeError(f"{names} ended, though nobody stopped the agent")
        logger.info("stopping; attempts go on without the agent")
        while parts:
            # More than once: on Python 3.11 a wait that ends at this very moment swallows its cancellation.
            for part in parts:
                part.cancel()
            _, parts = await asyncio.wait(parts, timeout=_CANCEL_AGAIN_SECONDS)


async def _attach_when(ready: asyncio.Event, uplink: Uplink) -> None:
    """Say Hello once all held attempts are known: an earlier one would give them up."""
    await ready.wait()
    await uplink.run()


def _filler(node_id: str, clock: Clock, spool_id: SpoolId, sequence: int) -> tuple[str, bytes]:
    """Stand for a record that a disk damaged."""
    now = round(clock.now().timestamp() * 1000)
    missing = SamplesMissing(
        node_id=node_id,
        kind="log",
        from_unix_milliseconds=now,
        to_unix_milliseconds=now,
        sample_count=1,
        reason="a record of the agent's spool was damaged on its disk",
    )
    return "missing", envelope_bytes(missing, node_id, spool_id, sequence, clock.now())
