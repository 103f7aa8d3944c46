"""Answers about history as lines for people. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard.history.v1.history_service_pb2 import (
    CauseLink,
    DiffStatesResponse,
    Effect,
    ExplainRunResponse,
    FieldChange,
    ListEffectsResponse,
    TimelineEntry,
    TimelineFlagKind,
)
from runyard_cli.output import safe
from runyard_cli.words import duration_words, moment
from runyard_core.counted import count_words

_ACTOR_KINDS = {1: "user", 2: "service", 3: "agent"}
_TELEMETRY = Lane.LANE_TELEMETRY
KIND_WIDTH = 25
"""Of the longest type, as it is shown."""


def timeline_lines(entry: TimelineEntry) -> Iterator[str]:
    """Give an entry: place, both clocks, type, sentence; then its flags and causes, a line each."""
    envelope = entry.event.envelope
    recorded = moment(envelope.recorded_at)
    clock = f"{recorded:%m-%d %H:%M:%S}.{recorded.microsecond // 1000:03}"
    kind = short_type(envelope.type)
    yield safe(
        f"{place(envelope):>12} {clock} {delay_words(entry.skew_milliseconds):>11} "
        f"{kind:<{KIND_WIDTH}} {_about(entry.run)}{entry.sentence}"
    )
    for flag in entry.flags:
        word = TimelineFlagKind.Name(flag.kind).removeprefix("TIMELINE_FLAG_KIND_").lower().replace("_", " ")
        yield safe(f"{'':>12} ! {word}: {flag.detail}")
    yield from cause_lines(entry.causes, indent=13)


def cause_lines(causes: Sequence[CauseLink], *, indent: int) -> Iterator[str]:
    """Give a chain of causes, direct cause first, a line each."""
    for cause in causes:
        lane = "t" if cause.lane == _TELEMETRY else ""
        at = f"{lane}{cause.position}"
        yield safe(f"{'':>{indent}}<- {short_type(cause.type)} at {at} by {cause.actor} ({cause.event_id})")


def explain_lines(answer: ExplainRunResponse, skipped: int = 0) -> Iterator[str]:
    """Give each event that changed the field, what changed, and why; some are left out at the front."""
    if not answer.explanations:
        yield "nothing else changed it" if skipped else "nothing changed it up to this moment"
    for explanation in answer.explanations:
        envelope = explanation.event.envelope
        at = f"{moment(envelope.recorded_at):%m-%d %H:%M:%S}"
        yield safe(f"{envelope.position:>8} {at} {short_type(envelope.type)}: {explanation.sentence}")
        for change in explanation.changes:
            yield safe(f"{'':>8}   {change_words(change)}")
        yield from cause_lines(explanation.causes, indent=11)
        command = explanation.root_command_id
        yield safe(f"{'':>8}   asked by {explanation.root_actor}, command {command}")
    if answer.has_more_explanations:
        yield f"and more: --at {answer.position} --skip {skipped + len(answer.explanations)} shows them"


def diff_lines(answer: DiffStatesResponse, skipped: int = 0) -> Iterator[str]:
    """Give the fields that differ, without those that were left out at the front; then the events by type."""
    yield f"from position {answer.from_position} to {answer.to_position}"
    if not answer.changes:
        yield "no other field differs" if skipped else "no field differs"
    for change in answer.changes:
        yield safe(f"  {change_words(change)}")
    if answer.has_more_changes:
        span = f"--from {answer.from_position} --to {answer.to_position}"
        yield f"  and more: {span} --skip {skipped + len(answer.changes)} shows them"
    total = sum(count.event_count for count in answer.events)
    yield count_words(total, "event") + (":" if total else "")
    for count in answer.events:
        where = f"at {count.first_position}"
        if count.last_position != count.first_position:
            where = f"from {count.first_position} to {count.last_position}"
        yield safe(f"  {count.event_count:>6} {short_type(count.type)} {where}")


def effects_lines(answer: ListEffectsResponse) -> Iterator[str]:
    """Give an event, what it caused as a tree, then what else its request did."""
    envelope = answer.event.envelope
    said = f"{_about(answer.run)}{answer.sentence}"
    yield safe(f"{place(envelope)} {short_type(envelope.type)} by {actor(envelope)}: {said}")
    if not answer.effects:
        yield "it caused nothing"
    below: dict[str, list[Effect]] = defaultdict(list)
    for effect in answer.effects:
        below[effect.event.envelope.causation_id].append(effect)
    yield from _effect_tree(envelope.event_id, below, answer.run)
    if answer.followers:
        yield "of the same request, later:"
        for follower in answer.followers:
            at = follower.event.envelope
            said = f"{_about(follower.run, answer.run)}{follower.sentence}"
            yield safe(f"   {place(at)} {short_type(at.type)}: {said}")
    if answer.truncated:
        yield "there is more: --limit shows it"


def _effect_tree(cause_id: str, below: Mapping[str, Sequence[Effect]], run: str) -> Iterator[str]:
    # Each attempt of a run is caused by the one before, so a chain may be longer than recursion allows.
    waiting = [(effect, run) for effect in reversed(below.get(cause_id, ()))]
    while waiting:
        effect, said_before = waiting.pop()
        at = effect.event.envelope
        said = f"{_about(effect.run, said_before)}{effect.sentence}"
        yield safe(f"{'  ' * effect.depth}-> {place(at)} {short_type(at.type)}: {said}")
        waiting += [(each, effect.run) for each in reversed(below.get(at.event_id, ()))]


def _about(run: str, said_before: str = "") -> str:
    """Name the run that an event is about, where the line above has not."""
    return f"{run}: " if run and run != said_before else ""


def change_words(change: FieldChange) -> str:
    """Say what became of a field: "state: QUEUED -> RUNNING"."""
    return f"{change.path}: {change.before_json or '-'} -> {change.after_json or '-'}"


def field_lines(message: Message, *, indent: str = "  ") -> Iterator[str]:
    """Give every set field of a message, nested ones indented."""
    yield from _content_lines(MessageToDict(message, preserving_proto_field_name=True), indent)


def place(envelope: Envelope) -> str:
    """Write a place in the log: "41"; in the telemetry lane "41/t7", behind domain position 41."""
    if envelope.lane == _TELEMETRY:
        return f"{envelope.after_position}/t{envelope.position}"
    return str(envelope.position)


def actor(envelope: Envelope) -> str:
    """Write who asked: "user:alice"."""
    return f"{_ACTOR_KINDS.get(envelope.actor.kind, 'unknown')}:{envelope.actor.id}"


def short_type(type_name: str) -> str:
    """Write an event type without what all of them share."""
    return type_name.removeprefix("runyard.")


def delay_words(milliseconds: int) -> str:
    """Say how far the producer's clock was behind the log's: "+12 ms", "-3.0 s"."""
    return f"{'-' if milliseconds < 0 else '+'}{duration_words(abs(milliseconds) / 1000)}"


def _content_lines(value: dict[str, object], indent: str) -> Iterator[str]:
    for name, below in value.items():
        match below:
            case dict():
                yield f"{indent}{name}:"
                yield from _content_lines(below, indent + "  ")
            case list() if any(isinstance(item, dict) for item in below):
                for index, item in enumerate(below):
                    yield f"{indent}{name}[{index}]:"
                    yield from _content_lines(item, indent + "  ")
            case list():
                yield safe(f"{indent}{name}: {', '.join(str(item) for item in below)}")
            case _:
                yield safe(f"{indent}{name}: {below}")
