"""Files of runs beside the raw store client with the same bytes: one large file, and many small ones."""

from __future__ import annotations

import io
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from minio import Minio

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import ListEventsRequest
from runyard.run.v1.events_pb2 import RunFinished
from runyard.run.v1.types_pb2 import Executor, Input, InputFile, Outcome, OutputFile, RunSpec
from runyard_embedded.credentials import load_or_create
from runyard_embedded.home import Home
from tests.bench.processes import read_bytes
from tests.bench.result import Result, measured
from tests.e2e.yard import Clients, Yard
from tests.faults.processes import process_of

MIB = 1024 * 1024
ROUNDS = 3
AT_ONCE = 4
"""Files that the agent moves at once."""

_MAKE = """
import os
for number in range({count}):
    with open(os.path.join(os.environ["VH_OUTPUTS_DIR"], f"{{number:05}}"), "wb") as file:
        for start in range(0, {size}, 1 << 20):
            file.write(os.urandom(min(1 << 20, {size} - start)))
os.sync()
"""


@dataclass(frozen=True, slots=True)
class _Shape:
    """Files that a run leaves and the next one reads."""

    name: str
    count: int
    bytes_each: int

    unit: str
    """"MiB" or "files": what its rates count."""

    @property
    def amount(self) -> float:
        return self.count * self.bytes_each / MIB if self.unit == "MiB" else self.count

    @property
    def command(self) -> str:
        return f"python - <<'END'\n{_MAKE.format(count=self.count, size=self.bytes_each)}END"


SHAPES = (
    _Shape("1 GiB in one file", 1, 1024 * MIB, "MiB"),
    _Shape("2,000 files of 1 KiB", 2_000, 1024, "files"),
)


@dataclass(slots=True)
class _Rates:
    """What one shape came to, in files or mebibytes a second."""

    stored: list[float] = field(default_factory=list)
    fetched: list[float] = field(default_factory=list)
    raw_stored: list[float] = field(default_factory=list)
    raw_fetched: list[float] = field(default_factory=list)
    raw_stored_at_once: list[float] = field(default_factory=list)
    raw_fetched_at_once: list[float] = field(default_factory=list)
    warm_bytes: list[float] = field(default_factory=list)


async def files(yard: Yard, clients: Clients, folder: Path) -> list[Result]:
    """Measure every shape, ours and the raw client by turns."""
    store = _Store(yard)
    results: list[Result] = []
    for shape in SHAPES:
        rates = _Rates()
        for number in range(ROUNDS):
            await _round(clients, store, shape, rates, folder / f"{shape.count}-{number}")
        results += _results(shape, rates)
    return results


async def _round(clients: Clients, store: _Store, shape: _Shape, rates: _Rates, folder: Path) -> None:
    raw = _made(shape, folder)
    rates.raw_stored.append(shape.amount / _seconds(partial(store.put, raw)))
    rates.raw_fetched.append(shape.amount / _seconds(partial(store.get, raw)))
    if shape.count > 1:
        rates.raw_stored_at_once.append(shape.amount / _seconds(partial(store.put, raw, AT_ONCE)))
        rates.raw_fetched_at_once.append(shape.amount / _seconds(partial(store.get, raw, AT_ONCE)))
    shutil.rmtree(folder)
    left = await _run(clients, RunSpec(step="leave", command_lines=[shape.command]))
    rates.stored.append(shape.amount / left.seconds("run.attempt_exited", "run.finished"))
    assert len(left.outputs) == shape.count
    files = [
        InputFile(
            uri=f"datum://{file.sha256}", path=file.path, sha256=file.sha256, size_bytes=file.size_bytes
        )
        for file in left.outputs
    ]
    data = Input(name="data", uris=[file.uri for file in files], files=files)
    os.sync()
    read = RunSpec(step="read", command_lines=["ls $VH_INPUTS_DIR/data | wc -l"], inputs=[data])
    cold = await _run(clients, read)
    assert cold.lines == [str(shape.count)]
    rates.fetched.append(shape.amount / cold.seconds("run.lease_granted", "run.started"))
    before = read_bytes(store.pid)
    await _run(clients, read)
    rates.warm_bytes.append((read_bytes(store.pid) - before) / MIB)


def _results(shape: _Shape, rates: _Rates) -> list[Result]:
    unit = f"{shape.unit}/s"
    stored, fetched = f"output, exit to finished: {shape.name}", f"input, lease to start: {shape.name}"
    results = [
        _beside(stored, rates.stored, unit, "minio fput_object", rates.raw_stored),
        _beside(fetched, rates.fetched, unit, "minio fget_object", rates.raw_fetched),
        measured(f"store reads, warm: {shape.name}", rates.warm_bytes, "MiB", "lower", target=1),
    ]
    if rates.raw_stored_at_once:
        # Without a target: with every core busy it is what the log and the second look at a file cost.
        threads = f"the same in {AT_ONCE} threads"
        for name, ours, raw in (
            (stored, rates.stored, rates.raw_stored_at_once),
            (fetched, rates.fetched, rates.raw_fetched_at_once),
        ):
            results.append(measured(name, ours, unit, "higher", baseline=(threads, raw)))
    return results


def _beside(name: str, ours: list[float], unit: str, peer: str, raw: list[float]) -> Result:
    target = round(0.8 * statistics.median(raw), 1)
    return measured(name, ours, unit, "higher", target=target, baseline=(peer, raw))


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that is over."""

    at: Mapping[str, float]
    """Seconds by the name of the event, by the clocks of whoever made it; all are of this machine."""
    outputs: Sequence[OutputFile]
    lines: Sequence[str]

    def seconds(self, first: str, last: str) -> float:
        return self.at[f"runyard.{last}"] - self.at[f"runyard.{first}"]


async def _run(clients: Clients, spec: RunSpec) -> _Run:
    spec.executor = Executor.EXECUTOR_PROCESS
    run_id = (await clients.submit(spec, "bench")).run_id
    await clients.complete_record(run_id, 300)
    request = ListEventsRequest(lane=Lane.LANE_DOMAIN, page_size=1000)
    request.filter.stream = f"run-{run_id}"
    envelopes = [each.envelope for each in (await clients.history.ListEvents(request, timeout=20)).events]
    at = {envelope.type: envelope.occurred_at.ToNanoseconds() / 1e9 for envelope in envelopes}
    finished = RunFinished.FromString(envelopes[-1].data)
    assert finished.outcome == Outcome.OUTCOME_SUCCEEDED
    return _Run(at, list(finished.outputs), await clients.lines(run_id))


class _Store:
    """The yard's store through the raw client."""

    def __init__(self, yard: Yard) -> None:
        process = process_of(yard, "store")
        credentials = load_or_create(Home(yard.home))
        self.pid = int(process["pid"])
        self.client = Minio(
            f"127.0.0.1:{process['port']}",
            access_key=credentials.s3_access_key,
            secret_key=credentials.s3_secret_key,
            secure=False,
            region="us-east-1",
        )
        self.bucket = next(iter(self.client.list_buckets())).name
        self.client.put_object(self.bucket, "bench/first", io.BytesIO(b"x"), 1)

    def put(self, paths: Sequence[Path], at_once: int = 1) -> None:
        with ThreadPoolExecutor(at_once) as threads:
            list(threads.map(self._put, paths))

    def get(self, paths: Sequence[Path], at_once: int = 1) -> None:
        with ThreadPoolExecutor(at_once) as threads:
            list(threads.map(self._get, paths))

    def _put(self, path: Path) -> None:
        self.client.fput_object(self.bucket, f"bench/{path.name}", str(path))

    def _get(self, path: Path) -> None:
        self.client.fget_object(self.bucket, f"bench/{path.name}", f"{path}.back")


def _made(shape: _Shape, folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:05}" for number in range(shape.count)]
    for path in paths:
        with path.open("wb") as file:
            for start in range(0, shape.bytes_each, MIB):
                file.write(os.urandom(min(MIB, shape.bytes_each - start)))
    return paths


def _seconds(work: Callable[[], object]) -> float:
    """Measure from a disk at rest, as ours is: what was written before would be written out meanwhile."""
    os.sync()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
