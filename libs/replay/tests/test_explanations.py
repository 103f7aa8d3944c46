"""What changed a field of a run, and who asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from runyard.history.v1.history_service_pb2 import ExplainRunRequest, FieldChange
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Cause, InputFile, Run
from runyard_contracts import answer_size
from runyard_contracts.ids import stream_name
from runyard_core.errors import InvalidInput
from runyard_replay.folding.fields import changes_between, flat, is_within
from runyard_replay.folding.runs import run_after
from runyard_replay.reading import explaining
from runyard_replay.reading.explaining import explain_run

from .yard import RUN, yard_with_a_finished_run


async def test_an_explanation_names_the_events_that_changed_a_field_and_who_asked() -> None:
    yard = await yard_with_a_finished_run()
    request = ExplainRunRequest(name="digits#latest", field="state")
    answer = await explain_run(yard.log, request, yard.clock)
    changed = [(each.changes[0].before_json, each.changes[0].after_json) for each in answer.explanations]
    assert changed[0] == ("", '"RUN_STATE_QUEUED"')
    assert changed[-1] == ('"RUN_STATE_FINISHING"', '"RUN_STATE_FINISHED"')
    assert {each.root_actor for each in answer.explanations} == {"user:alice"}
    assert len({each.root_command_id for each in answer.explanations}) == 1
    below = ExplainRunRequest(name=RUN, field="attempts[1].cause")
    assert len((await explain_run(yard.log, below, yard.clock)).explanations) == 1
    with pytest.raises(InvalidInput) as refused:
        await explain_run(yard.log, ExplainRunRequest(name=RUN, field="stat"), yard.clock)
    assert refused.value.code == "NO_SUCH_FIELD"


async def test_others_have_their_turn_while_a_long_history_is_explained() -> None:
    yard = await yard_with_a_finished_run()
    for number in range(100):
        await yard.write("run", RUN, ev.RunStatusDetailSet(run_id=RUN, attempt=1, status_detail=f"{number}"))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    beside = asyncio.create_task(take_turns())
    explained = await explain_run(yard.log, ExplainRunRequest(name=RUN, field="status_detail"), yard.clock)
    beside.cancel()
    assert len(explained.explanations) == 100
    assert turns >= 100


async def test_a_long_history_is_explained_in_pages_that_go_into_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yard = await yard_with_a_finished_run()
    for number in range(30):
        detail = f"{number:02d}" + "x" * 2_000
        await yard.write("run", RUN, ev.RunStatusDetailSet(run_id=RUN, attempt=1, status_detail=detail))

    async def page(skipped: int, count: int = 0) -> tuple[list[str], bool]:
        request = ExplainRunRequest(
            name=RUN, field="status_detail", explanations_skipped=skipped, explanations_max=count
        )
        answer = await explain_run(yard.log, request, yard.clock)
        details = [each.changes[0].after_json[1:3] for each in answer.explanations]
        return details, answer.has_more_explanations

    everything = [f"{number:02d}" for number in range(30)]
    assert await page(0) == (everything, False)
    assert await page(0, 10) == (everything[:10], True)
    assert await page(20, 10) == (everything[20:], False)
    assert await page(40) == ([], False)
    # Of a message that holds three of them.
    monkeypatch.setattr(answer_size, "ANSWER_BYTES_MAX", 25_000)
    walked: list[str] = []
    has_more = True
    while has_more:
        some, has_more = await page(len(walked))
        assert 1 <= len(some) < 10
        walked += some
    assert walked == everything
    for wrong in ({"explanations_skipped": -1}, {"explanations_max": -1}, {"explanations_max": 10_001}):
        with pytest.raises(InvalidInput) as refused:
            await explain_run(yard.log, ExplainRunRequest(name=RUN, **wrong), yard.clock)  # type: ignore[arg-type]
        assert refused.value.code == "BAD_PAGE_SIZE"


@pytest.mark.parametrize(
    "field", ["", "state", "cause", "attempts", "attempts[1]", "attempts[1].inputs", "position"]
)
async def test_a_field_is_explained_from_any_place_on_by_what_it_was_after_each_event(field: str) -> None:
    yard = await yard_with_a_finished_run()
    for path in ("a", "b", "a"):
        fetched = ev.RunInputFetched(run_id=RUN, attempt=1, input="data", file=InputFile(path=path))
        await yard.write("run", RUN, fetched)
    await yard.write("run", RUN, ev.RunFinished(run_id=RUN, cause=Cause()))
    run: Run | None = None
    expected: list[tuple[int, list[FieldChange]]] = []
    for event in await yard.log.read_stream(stream_name("run", RUN)):
        before, run = flat(run), run_after(run, event)
        changes = [each for each in changes_between(before, flat(run)) if is_within(each.path, field)]
        expected += [(event.position, changes)] if changes else []
    assert bool(expected) == (field != "position")
    for skipped in range(len(expected) + 2):
        request = ExplainRunRequest(name=RUN, field=field, explanations_skipped=skipped)
        told = (await explain_run(yard.log, request, yard.clock)).explanations
        assert [(each.event.envelope.position, list(each.changes)) for each in told] == expected[skipped:]


async def test_a_field_that_stays_is_told_without_writing_the_run_after_each_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yard = await yard_with_a_finished_run()
    for number in range(50):
        file = InputFile(path=str(number))
        await yard.write("run", RUN, ev.RunInputFetched(run_id=RUN, attempt=1, input="data", file=file))
    written: list[Run] = []

    def watched(run: Run) -> Mapping[str, str]:
        written.append(run)
        return flat(run)

    monkeypatch.setattr(explaining, "flat", watched)
    request = ExplainRunRequest(name=RUN, field="state")
    told = (await explain_run(yard.log, request, yard.clock)).explanations
    assert len(told) == len(written) == 5
    request.field = "attempts"
    told = (await explain_run(yard.log, request, yard.clock)).explanations
    assert len(told) > 50
    written.clear()
    request.explanations_skipped = len(told) - 1
    assert list((await explain_run(yard.log, request, yard.clock)).explanations) == [told[-1]]
    assert len(written) == 2
