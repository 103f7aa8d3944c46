from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runyard_embedded import supervisor as module
from runyard_embedded.plan import Addresses, Member, Plan
from runyard_embedded.settings import ExternalNats, ExternalStore
from runyard_embedded.state import Phase, ProcessState, YardState
from runyard_embedded.supervisor import Supervisor
from runyard_engines import ChildProcess, EngineFailed, ProcessSpec
from runyard_engines.process import started

pytestmark = pytest.mark.system

FOR_EVER = "print('began', flush=True); import time; time.sleep(600)"
AT_ONCE = "print('no luck', flush=True); raise SystemExit(3)"


class Program:
    """A real child process that is ready as soon as it has printed something."""

    def __init__(self, name: str, code: str, folder: Path) -> None:
        self.name = name
        self.starts = 0
        self.process: ChildProcess | None = None
        self.spec = ProcessSpec(name=name, argv=(sys.executable, "-c", code), log_path=folder / f"{name}.log")

    async def start(self) -> None:
        self.starts += 1
        self.spec.log_path.write_text("")
        self.process = ChildProcess.start(self.spec)

    async def ready(self, timeout: float = 60.0) -> None:
        process = started(self.process)
        while "began" not in process.last_lines():
            if await process.wait(0.01) is not None:
                raise process.failed("did not start")

    async def stop(self) -> None:
        if self.process is not None:
            await self.process.stop()


class Yard:
    """A supervisor in a task, and everything it has published."""

    def __init__(self, *programs: Program, prepare: Callable[[], Awaitable[None]] | None = None) -> None:
        members = [Member(program, ProcessState(program.name, "1", None)) for program in programs]
        store = ExternalStore("", "", "", "", "")
        self.plan = Plan(
            Addresses("", ExternalNats("", {}), store, "", {}),
            engines=tuple(members[:1]),
            services=tuple(members[1:2]),
            agent=tuple(members[2:]),
        )
        self.states: list[YardState] = []
        self.news = asyncio.Event()
        state = YardState(ProcessState("supervisor", "1", None))
        self.supervisor = Supervisor(self.plan, prepare or self.prepare, state, self.publish)

    async def prepare(self) -> None:
        """There is nothing to make ready."""

    def publish(self, state: YardState) -> None:
        self.states.append(state)
        self.news.set()

    async def until(self, rule: Callable[[YardState], bool]) -> YardState:
        async with asyncio.timeout(30):
            while not (self.states and rule(self.states[-1])):
                self.news.clear()
                await self.news.wait()
        return self.states[-1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.supervisor.run())
        try:
            await self.until(lambda state: state.supervisor.phase is Phase.UP)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.0, 0.0, 0.0))


def programs(tmp_path: Path, *codes: str) -> list[Program]:
    names = ("engine", "service", "agent")
    return [Program(name, code, tmp_path) for name, code in zip(names, codes, strict=False)]


def phase(name: str, wanted: Phase) -> Callable[[YardState], bool]:
    return lambda state: state.processes[name].phase is wanted


def up_again(name: str, restarts: int) -> Callable[[YardState], bool]:
    return lambda state: (
        state.processes[name].phase is Phase.UP and state.processes[name].restarts == restarts
    )


async def test_stages_start_in_order_and_stop_in_reverse(tmp_path: Path) -> None:
    yard = Yard(*programs(tmp_path, FOR_EVER, FOR_EVER, FOR_EVER))
    async with yard.running():
        pass
    moments = [
        (process.name, process.phase)
        for before, after in zip([None, *yard.states], yard.states, strict=False)
        for process in after.processes.values()
        if before is not None and before.processes[process.name] != process
    ]
    assert [name for name, at in moments if at is Phase.UP] == ["engine", "service", "agent"]
    assert [name for name, at in moments if at is Phase.STOPPED] == ["agent", "service", "engine"]
    assert all(started(member.engine.process).exit_code() == -signal.SIGTERM for member in yard.plan.members)


async def test_a_killed_process_is_started_again_with_a_new_identity(tmp_path: Path) -> None:
    yard = Yard(*programs(tmp_path, FOR_EVER, FOR_EVER))
    async with yard.running():
        before = yard.states[-1].processes["service"].identity
        started(yard.plan.services[0].engine.process).kill()
        state = await yard.until(up_again("service", 1))
        assert state.processes["service"].identity not in {None, before}
        assert state.processes["engine"].restarts == 0


async def test_one_that_dies_again_and_again_is_given_up_loudly_and_the_rest_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, service = programs(tmp_path, FOR_EVER, FOR_EVER)
    yard = Yard(engine, service)
    async with yard.running():
        service.spec = ProcessSpec(
            name="service", argv=(sys.executable, "-c", AT_ONCE), log_path=service.spec.log_path
        )
        started(service.process).kill()
        state = await yard.until(phase("service", Phase.FAILED))
        assert state.processes["service"].detail == "ended with status 3, 4 times in 60 s"
        assert state.processes["engine"].phase is Phase.UP
        assert state.supervisor.phase is Phase.UP
    assert service.starts == 1 + module.RESTARTS_MAX
    critical = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert len(critical) == 1
    assert "it stays down. Its last lines:\nno luck" in critical[0]


async def test_deaths_long_ago_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTART_WINDOW_SECONDS", 0.0)
    yard = Yard(*programs(tmp_path, FOR_EVER, FOR_EVER))
    async with yard.running():
        for count in range(1, 6):
            started(yard.plan.services[0].engine.process).kill()
            await yard.until(up_again("service", count))


async def test_a_start_that_fails_stops_what_had_started(tmp_path: Path) -> None:
    engine, service = programs(tmp_path, FOR_EVER, AT_ONCE)
    with pytest.raises(EngineFailed, match="service did not start: no luck"):
        await Yard(engine, service).supervisor.run()
    assert started(engine.process).exit_code() == -signal.SIGTERM


async def test_a_preparation_that_fails_stops_the_engines_and_starts_no_service(tmp_path: Path) -> None:
    engine, service = programs(tmp_path, FOR_EVER, FOR_EVER)

    async def refuse() -> None:
        raise EngineFailed("no database")

    with pytest.raises(EngineFailed, match="no database"):
        await Yard(engine, service, prepare=refuse).supervisor.run()
    assert started(engine.process).exit_code() == -signal.SIGTERM
    assert service.starts == 0
