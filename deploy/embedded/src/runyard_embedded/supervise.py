"""The supervisor's process: takes the lock, lays out the yard and runs it until a signal."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib.metadata import version

from runyard_client import Context, save_context
from runyard_core.errors import Rejected, RunyardError
from runyard_embedded.bus_users import into_file, into_our_bus, keep_bus_users
from runyard_embedded.credentials import Credentials, load_or_create
from runyard_embedded.home import Home
from runyard_embedded.plan import Addresses, Plan, make_plan, role_url
from runyard_embedded.preparation import prepare
from runyard_embedded.renewal import keep_certificate
from runyard_embedded.settings import YardSettings
from runyard_embedded.sightings import Sightings, write_sightings
from runyard_embedded.state import ProcessState, YardState, read_state, write_state
from runyard_embedded.supervisor import Publish, Supervisor, Upkeep
from runyard_embedded.yard_ports import settle_ports
from runyard_engines import PortInUse
from runyard_engines.nats import RELAY
from runyard_engines.process import started_ticks, wait_for_exit

PREDECESSOR_SECONDS_MAX = 15.0
STARTS_MAX = 3
"""Ports are chosen free; somebody may be faster to take one before its process listens."""

log = logging.getLogger("runyard.supervisor")


class AlreadyUp(Rejected):
    """Another supervisor runs this home."""

    default_code = "YARD_ALREADY_UP"


def supervise(home: Home, settings: YardSettings, publish: Publish) -> None:
    """Run a yard until SIGTERM or SIGINT; ``publish`` is told of every change.

    Raises:
        AlreadyUp: another supervisor has this home.
        RunyardError: the start failed; nothing is left running.
    """
    home.make()
    lock = home.lock()
    if lock is None:
        raise AlreadyUp(f"a yard is already up under {home.folder}")
    try:
        asyncio.run(_until_signal(_run(home, settings, publish)))
    finally:
        lock.release()


async def _run(home: Home, settings: YardSettings, publish: Publish) -> None:
    await _predecessors_gone(home)
    state = YardState(
        ProcessState(
            "supervisor",
            version("runyard-embedded"),
            port=None,
            pid=os.getpid(),
            started_ticks=started_ticks(os.getpid()),
        )
    )

    def note(changed: YardState) -> None:
        nonlocal state
        state = changed
        write_state(home, changed)
        publish(changed)

    try:
        credentials = load_or_create(home)
        for _ in range(STARTS_MAX - 1):
            try:
                return await _start(home, settings, credentials, state, note)
            except PortInUse as error:
                if error.metadata.get("engine") in settings.ports:
                    raise  # somebody chose it: there is no other
                log.warning("%s: starting again with another", error.message)
        await _start(home, settings, credentials, state, note)
    except RunyardError as error:
        note(replace(state, error=error.message))
        raise


async def _start(
    home: Home,
    settings: YardSettings,
    credentials: Credentials,
    state: YardState,
    note: Callable[[YardState], None],
) -> None:
    plan = make_plan(home, settings, credentials, _ports(home, settings))
    save_context(_context(plan, credentials.client_token), home.folder)
    write_sightings(home, _sightings(plan.addresses, credentials))
    make_ready = functools.partial(
        prepare,
        plan.addresses,
        credentials.role_passwords,
        home,
        is_restored=settings.is_restored,
    )
    await Supervisor(plan, make_ready, state, note, _upkeep(home, plan, credentials)).run()


def _ports(home: Home, settings: YardSettings) -> dict[str, int]:
    if settings.gate is None:
        return settle_ports(home, settings.ports)
    return settle_ports(home, settings.ports, with_gate=True, gate_host=settings.gate.listen)


def _upkeep(home: Home, plan: Plan, credentials: Credentials) -> tuple[Upkeep, ...]:
    """Give what the supervisor does while the yard is up."""
    take = into_file(home.bus_users_file) if plan.nats is None else into_our_bus(plan.nats)
    scheduler = plan.addresses.services["scheduler"]
    users = functools.partial(keep_bus_users, scheduler, credentials.service_token, take)
    return (users, functools.partial(keep_certificate, home)) if plan.addresses.gate else (users,)


def _context(plan: Plan, token: str) -> Context:
    return Context(addresses=dict(plan.addresses.services), token=token)


def _sightings(addresses: Addresses, credentials: Credentials) -> Sightings:
    return Sightings(
        database_url=role_url(addresses, credentials, "runyard_reader"),
        admin_database_url=addresses.database_url,
        archive_url=addresses.archive_url,
        nats_url=addresses.nats.url,
        relay_password=addresses.nats.passwords.get(RELAY, ""),
        gate_address=addresses.gate,
    )


async def _predecessors_gone(home: Home) -> None:
    """Wait for what a killed supervisor left: the kernel has told it to end, and it holds ports and data."""
    state = read_state(home)
    for process in state.processes.values() if state else ():
        identity = process.identity
        if identity is None or not identity.is_alive():
            continue
        log.info("waiting for %s (pid %d) of the former yard to end", process.name, identity.pid)
        os.kill(identity.pid, signal.SIGINT if process.name == "postgres" else signal.SIGTERM)
        if not await wait_for_exit(identity.pid, PREDECESSOR_SECONDS_MAX) and identity.is_alive():
            os.kill(identity.pid, signal.SIGKILL)
            await wait_for_exit(identity.pid, PREDECESSOR_SECONDS_MAX)


async def _until_signal(work: Awaitable[None]) -> None:
    task = asyncio.ensure_future(work)
    asked: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not asked:  # a second one must not interrupt the orderly end
            asked.append(number)
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not asked:
            raise
