"""What a run left behind, in a form in which two runs of the same program are equal."""

from __future__ import annotations

import json
import re
from typing import Any

from google.protobuf.json_format import MessageToDict

from runyard.history.v1.history_service_pb2 import ListEventsRequest
from runyard.metric.v1.batches_pb2 import LogStream
from runyard.metric.v1.metric_service_pb2 import QuerySeriesRequest
from tests.e2e.yard import Clients

_OF_ITS_TIME = frozenset(
    {
        # When, how long and what that costs.
        "queuedAt", "startedAt", "finishedAt", "leasedAt", "exitedAt", "createdAt", "time", "cost",
        "statistics", "writtenAt",
        "lastTimeUnixMilliseconds", "timeUnixMilliseconds", "timesUnixMilliseconds",
        # Which one of its kind.
        "number", "position", "leaseId", "epoch", "spoolId", "lastSequence", "sampleCount", "logLineCount",
        # Lines of the agent itself are numbered with the others: it says more when it was killed.
        "lineNumber", "lineCount", "sizeBytes", "lastLines", "firstLineNumber",
        # The second environment is there already.
        "cached",
    }
)  # fmt: skip
_TRACE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0\d")
_OF_OTHERS = re.compile(r"; the kernel killed \d+ process\(es\) of this machine meanwhile: out of memory")
"""Said of any end where nobody counts a run's own: other tests run out of memory on purpose."""
_ONCE = (
    "runyard.run.queued", "runyard.run.lease_granted", "runyard.run.started", "runyard.environment.captured",
    "runyard.run.attempt_exited", "runyard.run.finished",
)  # fmt: skip


async def everything(clients: Clients, run_id: str, timeout_seconds: float) -> dict[str, Any]:
    """Wait for a run's record to be complete; give it with all lines, points and events, without times."""
    record = await clients.complete_record(run_id, timeout_seconds)
    assert list(record.missing) == []
    assert record.complete
    series = QuerySeriesRequest(run_id=run_id, max_points=1_000_000)
    answer = await clients.metrics.QuerySeries(series, timeout=60)
    shown = MessageToDict(record)
    for artifact in shown.get("outputs", []):
        # The same bytes may be another run's output, too.
        artifact["origins"] = [each for each in artifact["origins"] if each["origin"]["runId"] == run_id]
    for outputs in (shown.get("outputs", []), shown["run"]["attempts"][0].get("outputs", [])):
        outputs.sort(key=lambda output: str(output.get("name") or output.get("path")))
    text = _OF_OTHERS.sub("", json.dumps(_timeless(shown)).replace(run_id, "RUN"))
    return {
        "record": json.loads(_TRACE.sub("TRACE", text)),
        "outputs": sorted((output.name, output.sha256, output.size_bytes) for output in record.outputs),
        "stdout": await clients.lines(run_id, LogStream.LOG_STREAM_STDOUT),
        "stderr": await clients.lines(run_id, LogStream.LOG_STREAM_STDERR),
        "points": {each.name: list(each.values) for each in answer.series},
        "events": {name: (await _event_types(clients, run_id)).count(name) for name in _ONCE},
    }


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """Say where two things differ, field by field; nothing when they are equal."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = sorted({*expected, *found})
        return [
            line
            for name in names
            for line in differences(expected.get(name), found.get(name), f"{where}.{name}")
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [
            line for index, (one, other) in pairs for line in differences(one, other, f"{where}[{index}]")
        ]
    return [] if expected == found else [f"{where}: {expected!r} became {found!r}"]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(each) for name, each in value.items() if name not in _OF_ITS_TIME}
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    return value


async def _event_types(clients: Clients, run_id: str) -> list[str]:
    request = ListEventsRequest(page_size=1000)
    request.filter.stream = f"run-{run_id}"
    history = await clients.history.ListEvents(request, timeout=20)
    return [event.envelope.type for event in history.events]
