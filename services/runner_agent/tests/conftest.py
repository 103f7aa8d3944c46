"""What the agent's tests share."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runyard_agent.domain.command_script import script_text
from runyard_agent.runtime import LaunchPlan

MakePlan = Callable[..., LaunchPlan]


@pytest.fixture
def make_plan(tmp_path: Path) -> MakePlan:
    """Give the maker of launch plans whose folders exist: ``make_plan(*command_lines, **fields)``."""

    def make(*command_lines: str, **changes: Any) -> LaunchPlan:
        plan = LaunchPlan(
            run_id="01990000-0000-7000-8000-000000000001",
            attempt=1,
            epoch=1,
            directory=tmp_path,
            command_lines=command_lines,
            environment={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
        )
        plan = dataclasses.replace(plan, **changes)
        for folder in (plan.repository, plan.inputs, plan.outputs, plan.config, plan.state):
            folder.mkdir(parents=True, exist_ok=True)
        plan.script.write_text(script_text(command_lines), encoding="utf-8")
        plan.script.chmod(0o755)
        return plan

    return make
