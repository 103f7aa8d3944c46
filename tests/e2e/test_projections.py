"""Read models on a running yard: looked at, verified, rebuilt, and rebuilt without what is disputed."""

from __future__ import annotations

import json

import pytest

from runyard.run.v1.types_pb2 import Executor, RunSpec
from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(180), pytest.mark.xdist_group("yard")]


async def test_every_read_model_is_what_the_log_says_and_can_be_rebuilt_while_it_serves(
    yard: Yard, clients: Clients
) -> None:
    yard.cli("price", "set", "1.25", "--per", "node-hour")
    spec = RunSpec(step="x", command_lines=["echo hello"], executor=Executor.EXECUTOR_PROCESS)
    run = await clients.submit(spec)
    await clients.complete_record(run.run_id)

    listed = json.loads(yard.cli("history", "projections", "--output", "json").stdout)["projections"]
    names = {f"{each['service']}/{each['name']}" for each in listed}
    assert {"scheduler/scheduler", "cost/cost", "lineage/lineage", "metrics/runs"} <= names
    verified = yard.cli("history", "verify", "--projections").stdout
    assert {line.partition(":")[0] for line in verified.splitlines() if not line.startswith(" ")} == names
    assert verified.count("the same as the log says") == len(names)

    rebuilt = yard.cli("history", "rebuild", "cost", "scheduler")
    assert rebuilt.stdout.count("and shown (event ") == 2
    assert "cost/cost: folding the log" in rebuilt.stderr
    tail = yard.cli("history", "tail", "--type", "runyard.projection.rebuilt", "--output", "json").stdout
    events = [json.loads(line) for line in tail.splitlines()][-2:]
    assert events[0]["envelope"]["actor"]["kind"] == "ACTOR_KIND_USER"
    assert [json.loads(event["data_json"])["projection"] for event in events] == ["cost", "scheduler"]
    refused = yard.cli("history", "rebuild", "cost", expect=3)
    assert "OLD_BUILD_KEPT" in refused.stderr
    assert "price_v1_old" in yard.cli("history", "rebuild", "cost", "--drop-old").stdout
    yard.cli("history", "rebuild", "scheduler", "--drop-old")
    # Services answer from the tables that are in place now, also about what comes.
    await clients.complete_record((await clients.submit(spec)).run_id)


async def test_a_disputed_price_goes_from_the_price_book_with_a_rebuild(yard: Yard) -> None:
    set_ = yard.cli("price", "set", "977", "--per", "node-hour", "--output", "json")
    position = json.loads(set_.stdout)["position"]
    tail = yard.cli("history", "tail", "--from", str(position), "--to", str(position), "--output", "json")
    event_id = json.loads(tail.stdout)["envelope"]["event_id"]
    # An event is named by its position as well.
    yard.cli("history", "dispute", str(position), "--reason", "a slip of the hand")
    assert "$977" in yard.cli("price", "list").stdout
    differs = yard.cli("history", "rebuild", "cost", expect=1).stdout
    assert "from the log: no such row" in differs
    assert f"at position {position}" in differs
    yard.cli("history", "rebuild", "cost", "--accept-differences")
    assert "$977" not in yard.cli("price", "list").stdout
    # The log has it still, and so has what is folded from the log itself.
    assert "$977" in yard.cli("history", "as-of", str(position), "prices").stdout
    yard.cli("history", "verify", "--projections", "--read-model", "cost")
    again = yard.cli("history", "dispute", event_id, "--reason", "once more", expect=3)
    assert "ALREADY_DISPUTED" in again.stderr
    yard.cli("history", "rebuild", "cost", "--drop-old")

    yard.cli("history", "dispute", event_id, "--reason", "it was meant", "--withdraw")
    yard.cli("history", "rebuild", "cost", "--accept-differences")
    assert "$977" in yard.cli("price", "list").stdout
    yard.cli("history", "rebuild", "cost", "--drop-old")


async def test_wrong_names_are_refused_with_a_code(yard: Yard) -> None:
    assert "is not a service" in yard.cli("history", "rebuild", "costs", expect=2).stderr
    assert "PROJECTION_NOT_FOUND" in yard.cli("history", "rebuild", "cost/costs", expect=3).stderr
    for event, code in (("nothing", "BAD_EVENT_ID"), ("9999999", "EVENT_NOT_FOUND")):
        unknown = yard.cli("history", "dispute", event, "--reason", "why", expect=3)
        assert code in unknown.stderr
    assert yard.cli("history", "dead-letters", "list").stdout == "nothing is parked\n"
    shown = yard.cli("history", "dead-letters", "show", "cost", "7", expect=3)
    assert "DEAD_LETTER_NOT_FOUND" in shown.stderr
    assert "0 events applied" in yard.cli("history", "dead-letters", "requeue", "cost").stdout
