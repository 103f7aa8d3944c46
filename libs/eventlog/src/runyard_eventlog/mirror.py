"""The exact mirror of the domain lane on JetStream: its stream, and how an event looks in it.

Stream sequence = log position. Relay and auditor share this page, so that they cannot disagree; whether a
mirror may be kept as it is found says ``mirror_judgement``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.api import (
    PubAck,
    RetentionPolicy,
    StorageType,
    StoreCompression,
    StreamConfig,
    StreamInfo,
)
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts import subjects
from runyard_contracts.ids import uuid7
from runyard_core.errors import Corrupt
from runyard_eventlog.connections import Connection

KEPT = timedelta(days=14)
"""How long the mirror keeps an event; older ones are in the log."""
BATCH_MAX = 1_000
"""Most messages of one atomic batch (the server's limit)."""
BATCH_BYTES_MAX = 4 * 1024 * 1024
"""Most bytes that are sent before their acknowledgement is awaited, unless one event alone has more."""
WRONG_LAST_SEQUENCE = 10071
"""JetStream's error code when somebody else published meanwhile."""

_ATOMIC_BATCH_MIN = 20
_SUBJECTS_OVERLAP = 10065
_ACK_SECONDS_MAX = 5.0


class MirrorMismatch(Corrupt):
    """The mirror holds something that the log does not."""

    default_code = "MIRROR_MISMATCH"


@dataclass(frozen=True, slots=True)
class MirrorEntry:
    """What must be the same in the log and in the mirror."""

    position: int
    subject: str
    event_id: str
    body: bytes
    """The serialised envelope with position and recorded_at."""


@dataclass(frozen=True, slots=True)
class MirrorMessage:
    """An event in the form that the bus carries."""

    position: int
    event_id: str
    subject: str
    headers: dict[str, str]
    body: bytes

    @property
    def entry(self) -> MirrorEntry:
        """What a reader of the mirror finds again."""
        return MirrorEntry(self.position, self.subject, self.event_id, self.body)


def configuration(name: str, first_position: int, replicas: int) -> StreamConfig:
    """Say what the mirror's stream is like; everything that could make it forget is named."""
    return StreamConfig(
        name=name,
        subjects=[subjects.EVENT_WILDCARD],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_age=KEPT.total_seconds(),
        max_msgs=-1,
        max_bytes=-1,
        max_msgs_per_subject=-1,
        duplicate_window=120,
        first_seq=first_position,
        deny_delete=True,
        deny_purge=True,
        allow_direct=True,
        allow_atomic=True,
        compression=StoreCompression.S2,
    )


async def read_messages(connection: Connection, after: int, limit: int, log_id: str) -> list[MirrorMessage]:
    """Read a page of the domain lane in mirror form, up to the event that fills ``BATCH_BYTES_MAX``."""
    found = await connection.fetch(
        """
        select position, recorded_at, event_id::text, type, stream, payload from (
          select *, sum(octet_length(payload)) over (order by position rows unbounded preceding) as up_to_it
          from log.domain_event where position > $1 order by position limit $2
        ) sized where up_to_it - octet_length(payload) < $3 order by position
        """,
        after,
        limit,
        BATCH_BYTES_MAX,
    )
    messages = []
    for position, recorded_at, event_id, type_name, stream, payload in found:
        headers = {
            "Nats-Msg-Id": event_id,
            subjects.HEADER_TYPE: type_name,
            subjects.HEADER_SCHEMA_VERSION: str(Envelope.FromString(payload).schema_version),
            subjects.HEADER_POSITION: str(position),
            subjects.HEADER_LOG_ID: log_id,
        }
        # Two serialised messages one after the other parse as their merge.
        added = Envelope(position=position)
        added.recorded_at.FromDatetime(recorded_at)
        body = payload + added.SerializeToString(deterministic=True)
        messages.append(MirrorMessage(position, event_id, subjects.event_subject(stream), headers, body))
    return messages


class Mirror:
    """The mirror's stream of one log."""

    def __init__(self, client: Client, log_id: str, *, replicas: int = 1) -> None:
        """Name the stream.

        Args:
            client: a connection of the one user that may publish events and manage their stream.
            log_id: the log's identity.
            replicas: 1 on one server, 3 on a cluster.
        """
        self.log_id = log_id
        self.name = subjects.events_stream(log_id)
        self._client = client
        self._jetstream: JetStreamContext = client.jetstream(timeout=_ACK_SECONDS_MAX)
        self._replicas = replicas
        self._has_batches = True

    async def info(self) -> StreamInfo | None:
        """Give what the server says of the stream, or None when there is none."""
        try:
            return await self._jetstream.stream_info(self.name)
        except NotFoundError:
            return None

    async def create(self, first_position: int) -> None:
        """Make the stream, whose first sequence will be ``first_position``.

        Mirrors of other logs are removed: their subjects are the same, and a restored log replaces them.

        Raises:
            MirrorMismatch: a stream that is no mirror takes the subjects of events.
        """
        config = configuration(self.name, first_position, self._replicas)
        try:
            await self._jetstream.add_stream(config)
        except APIError as error:
            if error.err_code != _SUBJECTS_OVERLAP:
                raise
            for stream in await self._jetstream.streams_info():
                await self._make_way(stream)
            await self._jetstream.add_stream(config)

    async def _make_way(self, stream: StreamInfo) -> None:
        name = stream.config.name or ""
        if name.startswith(f"{subjects.EVENTS_STREAM_PREFIX}_") and name != self.name:
            await self._jetstream.delete_stream(name)
            return
        first_tokens = {subject.partition(".")[0] for subject in stream.config.subjects or ()}
        if first_tokens & {"runyard", "*", ">"} and name != subjects.TELEMETRY_STREAM:
            raise MirrorMismatch(
                f"stream {name} takes {stream.config.subjects}, where only the mirror {self.name} may "
                "listen: find out who made it and delete it"
            )

    async def delete(self) -> None:
        """Remove the stream, if it is there."""
        try:
            await self._jetstream.delete_stream(self.name)
        except NotFoundError:
            return

    async def entry_at(self, sequence: int) -> MirrorEntry | None:
        """Give what the mirror says of a position, or None when it is not kept any more."""
        try:
            message = await self._jetstream.get_msg(self.name, sequence)
        except NotFoundError:
            return None
        event_id = (message.headers or {}).get("Nats-Msg-Id", "")
        return MirrorEntry(sequence, message.subject or "", event_id, message.data or b"")

    async def publish(self, messages: Sequence[MirrorMessage]) -> int:
        """Publish consecutive events, each in its place; give the last position.

        Raises:
            APIError: code ``WRONG_LAST_SEQUENCE`` when the mirror is not just before the first of them.
            MirrorMismatch: an event got another sequence than its position.
        """
        if len(messages) >= _ATOMIC_BATCH_MIN and self._has_batches:
            try:
                ack = await self._publish_batch(messages)
            except APIError as error:
                if error.err_code == WRONG_LAST_SEQUENCE:
                    raise
                # A server or stream without atomic batches; singly it is the same, only slower.
                self._has_batches = False
            else:
                return self._checked(ack, messages[-1])
        return await self._publish_singly(messages)

    async def _publish_batch(self, messages: Sequence[MirrorMessage]) -> PubAck:
        batch_id = uuid7()
        for number, message in enumerate(messages, start=1):
            headers = {**message.headers, "Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
            if number == 1:
                headers["Nats-Expected-Last-Sequence"] = str(message.position - 1)
            if number < len(messages):
                await self._client.publish(message.subject, message.body, headers=headers)
                continue
            headers["Nats-Batch-Commit"] = "1"
            answer = await self._client.request(
                message.subject, message.body, timeout=_ACK_SECONDS_MAX, headers=headers
            )
        return _ack(answer)

    async def _publish_singly(self, messages: Sequence[MirrorMessage]) -> int:
        # Not with publish_async of nats-py 2.16: its future never ends when the server refuses.
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox)
        try:
            for message in messages:
                headers = {**message.headers, "Nats-Expected-Last-Sequence": str(message.position - 1)}
                await self._client.publish(message.subject, message.body, reply=inbox, headers=headers)
            # Each expects the one before it, so they are taken in order or refused from some one on.
            for message in messages:
                self._checked(_ack(await subscription.next_msg(timeout=_ACK_SECONDS_MAX)), message)
        finally:
            await subscription.unsubscribe()
        return messages[-1].position

    def _checked(self, ack: PubAck, message: MirrorMessage) -> int:
        if (ack.stream, ack.seq) != (self.name, message.position):
            raise MirrorMismatch(
                f"position {message.position} ({message.event_id}) got sequence {ack.seq} of {ack.stream}, "
                f"not of {self.name}"
            )
        return message.position


def _ack(answer: Msg) -> PubAck:
    if not answer.data:
        # The server's "no responders": no stream takes the subject any more.
        raise NoRespondersError
    found = json.loads(answer.data)
    if "error" in found:
        APIError.from_error(found["error"])  # raises
    return PubAck.from_response(found)
