"""``history what-if --decide``: recorded decisions, made again with the code that is installed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1 import history_service_pb2 as pb
from runyard_cli.history.lines import change_words, short_type
from runyard_cli.history.source import PAGE_SIZE, Source
from runyard_cli.names import looks_like_run, may_be_id
from runyard_cli.output import is_json, safe, say, say_json_object
from runyard_core.counted import count_words

if TYPE_CHECKING:
    from runyard_contracts.recorded import RecordedEvent
    from runyard_replay.folding.decisions import Decision


@dataclass(slots=True)
class DecidedAgain:
    """What came out."""

    position: int
    decided_count: int = 0
    different: list[Decision] = field(default_factory=list)
    not_decided: list[Decision] = field(default_factory=list)


async def decide_again(source: Source, name: str, at: AsOf) -> DecidedAgain:
    """Read the log from its first event on and decide everything again; count what concerns a run or project.

    Args:
        source: where the log is read.
        name: a run, a project, or nothing for all of the yard.
        at: up to this moment.

    Raises:
        Rejected: nothing that decides is installed here (NO_DECIDERS).
    """
    # Not needed by any other command, and they bring the scheduler with them.
    from runyard_replay.deciding import by_command, installed_deciders

    subject = pb.Subject(kind=pb.SubjectKind.SUBJECT_KIND_PRICES)
    run_id, project = "", ""
    if looks_like_run(name) or may_be_id(name):
        subject = pb.Subject(kind=pb.SubjectKind.SUBJECT_KIND_RUN, name=name)
    elif name:
        subject, project = pb.Subject(kind=pb.SubjectKind.SUBJECT_KIND_COST, name=name), name
    shown = await source.state(pb.GetStateAsOfRequest(as_of=at, subject=subject))
    run_id = shown.run.run_id
    result = DecidedAgain(shown.position)
    deciders = installed_deciders()
    group: list[RecordedEvent] = []
    async for event in _events(source, shown.position, {each for one in deciders for each in one.categories}):
        if group and event.envelope.command_id != group[-1].envelope.command_id:
            _count(result, (each for one in deciders for each in one.decide_again(group)), run_id, project)
            group = []
        group.append(event)
    for last in by_command(group):
        _count(result, (each for one in deciders for each in one.decide_again(last)), run_id, project)
    return result


def say_decided(result: DecidedAgain) -> None:
    """Write how many decisions would be the same, and each that would not, field by field."""
    if is_json():
        say_json_object(_json_of(result))
        return
    for line in decided_lines(result):
        say(line)


def decided_lines(result: DecidedAgain) -> Iterator[str]:
    """Give the summary, then every decision that differs."""
    differing = len(result.different)
    yield (
        f"{count_words(result.decided_count, 'decision')} up to position {result.position} made again: "
        f"{result.decided_count - differing} the same, {differing} otherwise"
    )
    for decision in result.different:
        types = ", ".join(short_type(name) for name in decision.recorded)
        yield safe(f"{decision.position:>8} {decision.command} ({types}) on {decision.stream}")
        for change in decision.differences:
            yield safe(f"{'':>8}   {change_words(change)}")
    counts = Counter(short_type(name) for each in result.not_decided for name in each.recorded)
    for name, count in sorted(counts.items()):
        yield safe(f"not decided again: {count} x {name}")


async def _events(source: Source, position: int, categories: set[str]) -> AsyncIterator[RecordedEvent]:
    from runyard_contracts.ids import stream_category
    from runyard_contracts.recorded import RecordedEvent

    after = 0
    while after < position:
        request = pb.ListEventsRequest(
            after_position=after, to_position=position, page_size=PAGE_SIZE, as_stored=True
        )
        page = (await source.list_events(request)).events
        for view in page:
            if stream_category(view.envelope.stream) in categories:
                yield RecordedEvent(view.envelope)
        if not page:
            return
        after = page[-1].envelope.position


def _count(result: DecidedAgain, decisions: Iterator[Decision], run_id: str, project: str) -> None:
    for decision in decisions:
        if (run_id and decision.run_id != run_id) or (project and decision.project != project):
            continue
        if decision.not_decided:
            result.not_decided.append(decision)
            continue
        result.decided_count += 1
        if decision.differences:
            result.different.append(decision)


def _json_of(result: DecidedAgain) -> dict[str, object]:
    return {
        "position": result.position,
        "decided_count": result.decided_count,
        "different": [
            {
                "position": each.position,
                "stream": each.stream,
                "command": each.command,
                "recorded": list(each.recorded),
                "differences": [
                    {"path": change.path, "recorded": change.before_json, "today": change.after_json}
                    for change in each.differences
                ],
            }
            for each in result.different
        ],
        "not_decided": [
            {"position": each.position, "recorded": list(each.recorded), "reason": each.not_decided}
            for each in result.not_decided
        ],
    }
