"""Events as CloudEvents 1.0 in JSON, for other people's tools."""

from __future__ import annotations

import base64

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.envelope import UndecodableEventError, actor_name
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import UnknownEventTypeError
from runyard_contracts.upcasting import NoUpcasterError
from runyard_replay.folding.fields import json_content


def cloud_event(event: RecordedEvent) -> dict[str, object]:
    """Write an event. ``sequence`` is its position in its lane; names of extensions are lower-case only."""
    envelope = event.envelope
    written: dict[str, object] = {
        "specversion": "1.0",
        "id": envelope.event_id,
        "source": envelope.source or "/",
        "type": envelope.type,
        "subject": envelope.stream,
        "time": envelope.occurred_at.ToJsonString(),
        "recordedtime": envelope.recorded_at.ToJsonString(),
        "sequence": str(envelope.position),
        "lane": Lane.Name(envelope.lane).removeprefix("LANE_").lower(),
        "streamversion": str(envelope.stream_version),
        "schemaversion": envelope.schema_version,
        "actor": actor_name(envelope.actor),
    }
    optional = {
        "correlationid": envelope.correlation_id,
        "causationid": envelope.causation_id,
        "commandid": envelope.command_id,
        "traceparent": envelope.traceparent,
        "afterposition": str(envelope.after_position) if envelope.after_position else "",
    }
    written.update({name: value for name, value in optional.items() if value})
    try:
        data = json_content(event.message)
    except (UnknownEventTypeError, UndecodableEventError, NoUpcasterError):
        data = None
    if data is None:
        written["datacontenttype"] = "application/protobuf"
        written["data_base64"] = base64.b64encode(envelope.data).decode()
    else:
        written["datacontenttype"] = "application/json"
        written["data"] = data
    return written
