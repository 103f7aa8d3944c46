"""Kills what the clients of the log depend on, and the clients, with -9, and starts it again."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from runyard_contracts import subjects
from runyard_engines import ChildProcess, NatsServer, Postgres, ProcessSpec, start_ready
from runyard_testkit import Bus, Database
from tests.jepsen.process_arguments import (
    BusWatcherArguments,
    WatcherArguments,
    WriterArguments,
    text_of_arguments,
)

ROOT = Path(__file__).parents[2]
WATCHER_COUNT = 3
"""The first has a doorbell, the second has none, the third watches the mirror."""
BUS_WATCHER = 2
_END_SECONDS_MAX = 30.0


@dataclass(slots=True)
class Cluster:
    """The engines, the relay, writers and watchers of one run."""

    postgres: Postgres
    nats: NatsServer
    database: Database
    log_id: str
    folder: Path
    """Where histories and what processes print are kept."""
    dice: random.Random
    writers: list[Child] = field(default_factory=list)
    watchers: list[Child] = field(default_factory=list)
    relays: list[Child] = field(default_factory=list)
    histories: list[Path] = field(default_factory=list)
    """Of every writer that ever was."""
    kills: Counter[str] = field(default_factory=Counter)

    async def start(self, *, writer_count: int) -> None:
        """Start the clients: writers, watchers, and the relay."""
        self.relays.append(await self._start_relay())
        for number in range(WATCHER_COUNT):
            self.watchers.append(await self._start_watcher(number))
        for _ in range(writer_count):
            self.writers.append(await self._start_writer())
        await self._all_at_work()

    async def torment(self, seconds: float) -> None:
        """Kill one thing after the other for so long; everything is up again in the end."""
        deadline = asyncio.get_running_loop().time() + seconds
        faults: list[Callable[[], Awaitable[None]]] = [
            self._kill_postgres, self._kill_nats, self._kill_writer, self._kill_watcher, self._kill_relay,
        ]  # fmt: skip
        # Each once at least, however short the time is.
        order = self.dice.sample(faults, len(faults))
        while order or asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(self.dice.random() * 0.4)
            await (order.pop() if order else self.dice.choice(faults))()

    async def stop_writers(self) -> None:
        """End the writers in order."""
        await self._all_at_work()
        for writer in self.writers:
            writer.process.send_signal(signal.SIGTERM)
        for writer in self.writers:
            await writer.ended(0)

    async def stop(self) -> None:
        """End every process that is left."""
        for child in (*self.writers, *self.watchers, *self.relays):
            child.process.kill()
            await child.process.wait()

    async def _all_at_work(self) -> None:
        """Wait until every client has started: what has done nothing yet loses nothing by dying."""
        for child in (*self.writers, *self.watchers):
            await child.at_work()

    async def _kill_postgres(self) -> None:
        self.kills["postgres"] += 1
        await _kill_engine(self.postgres)

    async def _kill_nats(self) -> None:
        self.kills["nats"] += 1
        await _kill_engine(self.nats)

    async def _kill_writer(self) -> None:
        self.kills["writer"] += 1
        number = self.dice.randrange(len(self.writers))
        await self.writers[number].at_work()
        await self.writers[number].kill()
        self.writers[number] = await self._start_writer()

    async def _kill_watcher(self) -> None:
        self.kills["watcher"] += 1
        number = self.dice.randrange(len(self.watchers))
        await self.watchers[number].at_work()
        await self.watchers[number].kill()
        self.watchers[number] = await self._start_watcher(number)

    async def _kill_relay(self) -> None:
        self.kills["relay"] += 1
        await self.relays[0].kill()
        self.relays[0] = await self._start_relay()

    async def _start_writer(self) -> Child:
        history = self.folder / f"writer-{len(self.histories)}.jsonl"
        self.histories.append(history)
        arguments = WriterArguments(
            scheduler_url=self.database.url("scheduler"),
            metrics_url=self.database.url("metrics"),
            history=str(history),
            seed=self.dice.getrandbits(32),
        )
        return await self._start("tests.jepsen.writer", history, text_of_arguments(arguments))

    async def _start_watcher(self, number: int) -> Child:
        bus = Bus(self.nats)
        if number == BUS_WATCHER:
            return await self._start_bus_watcher(bus)
        arguments = WatcherArguments(
            database_url=self.database.url("lineage"),
            history=str(self.watcher_history(number)),
            nats_url=bus.url if number == 0 else "",
            nats_password=bus.password("lineage"),
        )
        history = self.watcher_history(number)
        return await self._start("tests.jepsen.watcher", history, text_of_arguments(arguments))

    async def _start_bus_watcher(self, bus: Bus) -> Child:
        history = self.watcher_history(BUS_WATCHER)
        arguments = BusWatcherArguments(
            stream=subjects.events_stream(self.log_id),
            history=str(history),
            nats_url=bus.url,
            nats_password=bus.password("test"),
        )
        return await self._start("tests.jepsen.bus_watcher", history, text_of_arguments(arguments))

    def watcher_history(self, number: int) -> Path:
        """Where a watcher writes; the one that replaces it goes on there."""
        return self.folder / f"watcher-{number}.jsonl"

    async def _start_relay(self) -> Child:
        bus = Bus(self.nats)
        return await self._start(
            "runyard_eventlog.relay",
            None,
            RUNYARD_DATABASE_URL=self.database.url("relay"),
            RUNYARD_NATS_URL=bus.url,
            RUNYARD_NATS_USER="relay",
            RUNYARD_NATS_PASSWORD=bus.password("relay"),
        )

    async def _start(self, module: str, history: Path | None, *arguments: str, **environment: str) -> Child:
        # Tied to us: whoever kills the tests leaves no writer behind.
        spec = ProcessSpec(
            name=module,
            argv=(sys.executable, "-m", module, *arguments),
            log_path=self.folder / f"{module}.log",
            environment=environment,
            directory=ROOT,
            stop_signal=signal.SIGKILL,
        )
        return Child(ChildProcess.start(spec), history, _size_of(history))


@dataclass(frozen=True, slots=True)
class Child:
    """A process of ours."""

    process: ChildProcess
    history: Path | None
    history_bytes: int
    """How long its history was when it was started."""

    async def at_work(self) -> None:
        """Wait until it has written down something of its own."""
        async with asyncio.timeout(_END_SECONDS_MAX):
            while _size_of(self.history) <= self.history_bytes:
                self._assert_alive()
                # Its history is its only sign of life.
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """End it with -9, unless it has ended by itself, which none may."""
        self._assert_alive()
        self.process.kill()
        await self.process.wait()

    async def ended(self, code: int) -> None:
        """Wait until it has ended as it should."""
        found = await self.process.wait(_END_SECONDS_MAX)
        assert found == code, self._how_it_ended()

    def _assert_alive(self) -> None:
        assert self.process.exit_code() is None, self._how_it_ended()

    def _how_it_ended(self) -> str:
        lines = "\n".join(self.process.last_lines(30))
        return f"{self.process.spec.name} ended with {self.process.exit_code()}: {lines}"


def _size_of(history: Path | None) -> int:
    return history.stat().st_size if history is not None and history.exists() else 0


async def _kill_engine(engine: Postgres | NatsServer) -> None:
    assert engine.process is not None
    engine.process.kill()
    await engine.stop()
    await start_ready(engine)
