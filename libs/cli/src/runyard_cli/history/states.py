"""States as of a moment, in words for people."""

from __future__ import annotations

from collections.abc import Iterator

from runyard.history.v1.history_service_pb2 import (
    GetStateAsOfResponse,
    GpuState,
    PriceAgainResponse,
    QueueState,
)
from runyard.node.v1.types_pb2 import NodeState
from runyard.run.v1.types_pb2 import RunState
from runyard_cli.history.lines import field_lines
from runyard_cli.output import safe, say
from runyard_cli.table import Row, say_table
from runyard_cli.words import count_words, duration_words, money_words, size_words, time_words


def say_state(shown: GetStateAsOfResponse, skipped: int = 0) -> None:
    """Write a state; of a queue, so many waiting runs were left out at its front."""
    say(f"as of position {shown.position}, recorded {time_words(shown.recorded_at)}")
    for name in ("run", "node", "file"):
        if shown.HasField(name):
            for line in field_lines(getattr(shown, name)):
                say(line)
    if shown.HasField("queue"):
        _say_queue(shown.queue, skipped)
    if shown.HasField("gpus"):
        _say_gpus(shown.gpus)
    if shown.HasField("cost"):
        cost = shown.cost
        say(safe(f"{cost.project} {money_words(cost.micro_usd)}, {count_words(cost.run_count, 'run')}"))
        rows: list[Row] = [
            (run.run_id, money_words(run.micro_usd), "running" if run.running else "") for run in cost.runs
        ]
        if rows:
            say_table(("RUN", "COST", ""), rows, right=(1,))
        if cost.has_unpriced_time:
            say("some of it has no price")
    if shown.HasField("prices"):
        for price in shown.prices.prices:
            for line in field_lines(price):
                say(line)
            say()


def say_repriced(answer: PriceAgainResponse) -> None:
    """Write what runs cost as recorded and with the other prices."""
    rows: list[Row] = []
    for run in answer.runs:
        before, after = run.recorded.micro_usd, run.repriced.micro_usd
        rows.append((run.run_id, money_words(before), money_words(after), _difference(before, after)))
    before, after = answer.recorded_micro_usd, answer.repriced_micro_usd
    rows.append(("all", money_words(before), money_words(after), _difference(before, after)))
    say_table(("RUN", "RECORDED", "WHAT IF", "DIFFERENCE"), rows, right=(1, 2, 3))


def _difference(before: int, after: int) -> str:
    return "+" * (after > before) + money_words(after - before)


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


def _say_gpus(gpus: GpuState) -> None:
    rows = list(_gpu_rows(gpus))
    if rows:
        say_table(("NODE", "", "GPU", "MODEL", "HELD BY", "SINCE"), rows)
    else:
        say("no nodes yet")


def _gpu_rows(gpus: GpuState) -> Iterator[Row]:
    foreign = {process.gpu_uuid: process for process in gpus.foreign_processes}
    for node in gpus.nodes:
        state = "attached" if node.state == NodeState.NODE_STATE_ATTACHED else "not heard from"
        holders = {uuid: held for held in node.reservations for uuid in held.gpu_uuids}
        for gpu in node.inventory.gpus:
            holder, other = holders.get(gpu.uuid), foreign.get(gpu.uuid)
            held_by = f"{holder.run_id} attempt {holder.attempt}" if holder else ""
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
                f"{held.run_id} attempt {held.attempt}",
                time_words(held.reserved_at),
            )
        if not node.inventory.gpus and not slots:
            yield (node.node_id, state, f"{node.inventory.slot_count} slots", "", "free", "")
