"""The only place where NATS subjects and stream names are built or parsed."""

from __future__ import annotations

from runyard_contracts.ids import stream_category, stream_id

TELEMETRY_STREAM = "TELEMETRY"
"""JetStream stream that buffers what agents send."""

EVENTS_STREAM_PREFIX = "EVENTS"
"""The mirror's stream is named EVENTS_<log id>: a restored log gets a new one."""

EVENT_WILDCARD = "runyard.event.>"
TELEMETRY_WILDCARD = "runyard.telemetry.>"

HEAD = "runyard.log.head"
"""Core subject: the relay says here how far the mirror is, so that subscribers look at the log."""

HEADER_TYPE = "Runyard-Type"
HEADER_SCHEMA_VERSION = "Runyard-Schema-Version"
HEADER_POSITION = "Runyard-Position"
HEADER_LOG_ID = "Runyard-Log-Id"
HEADER_SPOOL_ID = "Runyard-Spool-Id"
HEADER_SPOOL_SEQUENCE = "Runyard-Spool-Sequence"


def events_stream(log_id: str) -> str:
    """Name the JetStream stream that mirrors this log."""
    return f"{EVENTS_STREAM_PREFIX}_{log_id.replace('-', '')}"


def event_subject(stream: str) -> str:
    """Give the one literal subject of a stream: wildcards under one aggregate are slow to load."""
    return f"runyard.event.{stream_category(stream)}.{_token(stream_id(stream))}"


def telemetry_subject(node_id: str, kind: str) -> str:
    """Give the subject that a node may publish one kind of telemetry to."""
    return f"runyard.telemetry.{_token(node_id)}.{_token(kind)}"


def committed_subject(node_id: str) -> str:
    """Give the core subject on which a node hears up to where the log has its spools."""
    return f"runyard.committed.{_token(node_id)}"


def bus_user(node_id: str) -> str:
    """Name the user that a node is on the bus."""
    return f"agent-{node_id}"


def inbox_prefix(node_id: str) -> str:
    """Give the inbox prefix of a node, so that its credential can be limited to it."""
    return f"_INBOX_agent_{_token(node_id)}"


def _token(text: str) -> str:
    """Replace what separates or widens subjects; ids hold neither space nor wildcard."""
    return text.replace(".", "_")
