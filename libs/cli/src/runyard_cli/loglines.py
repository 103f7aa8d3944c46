"""A line of a run's log, for people or programs."""

from __future__ import annotations

from datetime import datetime

from runyard.metric.v1.batches_pb2 import LogStream
from runyard.metric.v1.metric_service_pb2 import LogLine
from runyard_cli.output import is_json, safe, say, say_json_line

_STREAM_WORDS = {
    LogStream.LOG_STREAM_STDOUT: "out",
    LogStream.LOG_STREAM_STDERR: "err",
    LogStream.LOG_STREAM_STATUS: "yard",
}


def say_line(line: LogLine, *, times: bool) -> None:
    """Write a line of a log."""
    if is_json():
        say_json_line(line)
        return
    text = safe(line.text)
    if line.stream == LogStream.LOG_STREAM_STATUS and not times:
        text = f"[yard] {text}"
    if times:
        time = datetime.fromtimestamp(line.time_unix_milliseconds / 1000).astimezone()
        stream = _STREAM_WORDS.get(line.stream, "")
        text = f"{time:%H:%M:%S}.{time.microsecond // 1000:03d} {stream:<4} {text}"
    say(text)
