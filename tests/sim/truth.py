"""What programs really did, whatever anybody recorded of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from runyard_agent.runtime import Exit, LaunchPlan
from tests.sim.universe import Universe


@dataclass(slots=True)
class Execution:
    """One start of one program."""

    run_id: str
    attempt: int
    node_id: str
    gpu_uuids: tuple[str, ...]
    started_at_seconds: float
    ended_at_seconds: float | None = None
    exit: Exit | None = None
    """None while it runs, and when the machine was lost under it."""
    lost: bool = False


@dataclass(slots=True)
class Truth:
    """Every execution; checks that none is beside another that it must not be beside."""

    universe: Universe
    executions: list[Execution] = field(default_factory=list)

    def begin(self, node_id: str, plan: LaunchPlan) -> Execution:
        execution = Execution(
            plan.run_id, plan.attempt, node_id, plan.gpu_uuids, self.universe.clock.monotonic_seconds()
        )
        for other in self.executions:
            if other.ended_at_seconds is not None:
                continue
            if other.run_id == execution.run_id:
                self.universe.never(
                    f"attempt {execution.attempt} starts on {node_id} while attempt {other.attempt} "
                    f"runs on {other.node_id}",
                    execution.run_id,
                )
            shared = set(other.gpu_uuids) & set(execution.gpu_uuids)
            if shared:
                self.universe.never(
                    f"attempt {execution.attempt} starts on {sorted(shared)}, which attempt "
                    f"{other.attempt} of run {other.run_id} still uses",
                    execution.run_id,
                )
        self.executions.append(execution)
        return execution

    def of(self, run_id: str, attempt: int | None = None) -> list[Execution]:
        return [
            execution
            for execution in self.executions
            if execution.run_id == run_id and attempt in (None, execution.attempt)
        ]
