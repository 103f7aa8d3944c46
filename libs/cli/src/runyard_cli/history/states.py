"""States as of a moment, in words for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runyard.cost.v1.types_pb2 import Price
from runyard.history.v1.history_service_pb2 import (
    GetStateAsOfResponse,
    GpuState,
    PriceAgainResponse,
    ProjectCostState,
    QueueState,
)
from runyard.node.v1.types_pb2 import NodeState, Reservation
from runyard.run.v1.types_pb2 import Run, RunState
from runyard_cli.history.kept import say_dataset, say_model, say_project
from runyard_cli.history.lines import field_lines
from runyard_cli.output import safe, say
from runyard_cli.price_lines import PRICE_HEADINGS, price_rows
from runyard_cli.table import Row, say_table
from runyard_cli.words import (
    cause_words,
    duration_words,
    money_words,
    run_name,
    size_words,
    state_word,
    time_words,
    zoned_words,
)
from runyard_core.counted import count_words

_NODE_STATES: Mapping[int, str] = {
    NodeState.NODE_STATE_ATTACHED: "attached",
    NodeState.NODE_STATE_INVITED: "invited",
    NodeState.NODE_STATE_REVOKED: "revoked",
}


def say_state(
    shown: GetStateAsOfResponse, skipped: int = 0, run_names: Mapping[str, str] | None = None
) -> None:
    """Write a state.

    Args:
        shown: what was answered.
        skipped: of a queue, so many waiting runs were left out at its front; of GPUs, so many nodes.
        run_names: run id -> "digits#12", of runs that hold something.
    """
    say(f"as of position {shown.position}, recorded {zoned_words(shown.recorded_at)}")
    if shown.HasField("run"):
        say(safe(_run_words(shown.run)))
    for name in ("run", "node", "file"):
        if shown.HasField(name):
            for line in field_lines(getattr(shown, name)):
                say(line)
    if shown.HasField("queue"):
        _say_queue(shown.queue, skipped)
    if shown.HasField("gpus"):
        _say_gpus(shown.gpus, run_names or {})
        if shown.gpus.more_node_count:
            # With a queue beside it nothing of the nodes was left out before these.
            how = "as-of ... gpus " if shown.HasField("queue") else ""
            first = len(shown.gpus.nodes) + (0 if shown.HasField("queue") else skipped)
            more = count_words(shown.gpus.more_node_count, "more node")
            say(f"and {more}: {how}--skip {first} shows them")
    if shown.HasField("cost"):
        _say_cost(shown.cost)
    if shown.HasField("prices"):
        _say_prices(shown.prices.prices)
    if shown.HasField("model"):
        say_model(shown.model)
    if shown.HasField("dataset"):
        say_dataset(shown.dataset)
    if shown.HasField("project"):
        say_project(shown.project)


def holding_runs(gpus: GpuState) -> list[str]:
    """Give the ids of runs that hold a GPU or a slot."""
    return list(dict.fromkeys(held.run_id for node in gpus.nodes for held in node.reservations))


def say_repriced(answer: PriceAgainResponse) -> None:
    """Write what runs cost as recorded and with the other prices."""
    rows: list[Row] = []
    for run in answer.runs:
        before, after = run.recorded.micro_usd, run.repriced.micro_usd
        name = run.name or run.run_id
        rows.append((name, money_words(before), money_words(after), _difference(before, after)))
    before, after = answer.recorded_micro_usd, answer.repriced_micro_usd
    rows.append(("all", money_words(before), money_words(after), _difference(before, after)))
    say_table(("RUN", "RECORDED", "WHAT IF", "DIFFERENCE"), rows, right=(1, 2, 3))
    if any(run.repriced.has_unpriced_time for run in answer.runs):
        say("some of it has no price in that book")


def _difference(before: int, after: int) -> str:
    return "+" * (after > before) + money_words(after - before)


def _run_words(run: Run) -> str:
    why = cause_words(run.cause)
    return f"{run_name(run)} {run.spec.step}: {state_word(run)[0]}{f', {why}' if why else ''}"


def _say_cost(cost: ProjectCostState) -> None:
    say(safe(f"{cost.project} {money_words(cost.micro_usd)}, {count_words(cost.run_count, 'run')}"))
    rows: list[Row] = [
        (
            f"{cost.project}#{run.number}" if run.number else run.run_id,
            money_words(run.micro_usd),
            "running" if run.running else "",
        )
        for run in cost.runs
    ]
    if rows:
        say_table(("RUN", "COST", ""), rows, right=(1,))
    if cost.run_count > len(cost.runs):
        say(f"and {count_words(cost.run_count - len(cost.runs), 'older run')}, too many for one answer")
    if cost.has_unpriced_time:
        say("some of it has no price")


def _say_prices(prices: Sequence[Price]) -> None:
    if prices:
        say_table(PRICE_HEADINGS, price_rows(prices), right=(1,))
    else:
        say("no prices yet")


def _say_queue(queue: QueueState, skipped: int) -> None:
    counted = ", ".join(
        f"{count.run_count} {RunState.Name(count.state).removeprefix('RUN_STATE_').lower()}"
        for count in queue.counts
    )
    say(f"runs: {counted or 'none yet'}")
    rows: list[Row] = [
        (
            str(index),
            f"{run.project}#{run.number}",
            run.step,
            str(run.priority),
            str(run.gpu_count),
            duration_words(run.waited_milliseconds / 1000),
            run.submitted_by,
        )
        for index, run in enumerate(queue.waiting, start=skipped + 1)
    ]
    if rows:
        say_table(("", "WAITING", "STEP", "PRIORITY", "GPUS", "FOR", "BY"), rows, right=(0, 3, 4))
    waiting = sum(count.run_count for count in queue.counts if count.state == RunState.RUN_STATE_QUEUED)
    if not waiting:
        say("nothing waited")
    elif (more := waiting - skipped - len(rows)) > 0:
        say(f"and {more} more: --skip {skipped + len(rows)} shows them")


def _say_gpus(gpus: GpuState, run_names: Mapping[str, str]) -> None:
    rows = list(_gpu_rows(gpus, run_names))
    if rows:
        say_table(("NODE", "", "GPU", "MODEL", "HELD BY", "SINCE"), rows)
    else:
        say("no nodes yet")


def _gpu_rows(gpus: GpuState, run_names: Mapping[str, str]) -> Iterator[Row]:
    def holder_words(held: Reservation) -> str:
        return f"{run_names.get(held.run_id, held.run_id)} attempt {held.attempt}"

    foreign = {process.gpu_uuid: process for process in gpus.foreign_processes}
    for node in gpus.nodes:
        state = _NODE_STATES.get(node.state, "not heard from")
        holders = {uuid: held for held in node.reservations for uuid in held.gpu_uuids}
        for gpu in node.inventory.gpus:
            holder, other = holders.get(gpu.uuid), foreign.get(gpu.uuid)
            held_by = holder_words(holder) if holder else ""
            if other is not None:
                size = size_words(other.memory_bytes)
                process = f"{other.process_name} ({other.pid}) of no run, {size}"
                held_by = f"{held_by} and {process}" if holder else process
            if gpu.unusable_reason:
                held_by = f"{held_by or 'nobody'}; {gpu.unusable_reason}"
            held_by = held_by or "free"
            since = time_words(holder.reserved_at) if holder else ""
            yield (node.node_id, state, gpu.uuid, gpu.model, held_by, since)
        slots = [held for held in node.reservations if not held.gpu_uuids]
        for held in slots:
            yield (
                *(node.node_id, state, "a slot", ""),
                holder_words(held),
                time_words(held.reserved_at),
            )
        if not node.inventory.gpus and not slots:
            yield (node.node_id, state, count_words(node.inventory.slot_count, "slot"), "", "free", "")
