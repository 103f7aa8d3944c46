"""What may pass is tried again by ``runyard_core.retry`` and by nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "services/runner_agent/src/runyard_agent/shim.py": "runs by itself, without our packages",
    "services/runner_agent/src/runyard_agent/environment/shared.py": "waits for a lock that others hold",
    "services/runner_agent/src/runyard_agent/runtime_process.py": "looks for the end of a process",
}
"""Files in which somebody sleeps because of an error, and why."""


def sleeps_after_errors(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    if "sleep(" not in text or "except" not in text:
        return False
    return any(
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "sleep"
        for handler in ast.walk(ast.parse(text))
        if isinstance(handler, ast.ExceptHandler)
        for call in ast.walk(handler)
    )


def test_nobody_sleeps_because_of_an_error_but_the_one_loop() -> None:
    files = [
        path for folder in ("libs", "services", "deploy") for path in ROOT.glob(f"{folder}/*/src/**/*.py")
    ]
    assert {str(path.relative_to(ROOT)) for path in files if sleeps_after_errors(path)} == set(ELSEWHERE)
