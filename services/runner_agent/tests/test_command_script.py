"""Command lines become one script that stops at the first failure."""

from __future__ import annotations

import subprocess

import pytest

from runyard_agent.domain.command_script import is_executable, script_text


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize(
    ("lines", "status", "printed"),
    [
        (["echo a", "echo b"], 0, "a\nb\n"),
        (["echo a", "false", "echo b"], 1, "a\n"),
        (["false; echo goes on", "echo b"], 0, "goes on\nb\n"),
        (["echo a  # said", "# only a comment", "", "echo b"], 0, "a\nb\n"),
        (["sleep 0 &", "wait", "echo b"], 0, "b\n"),
        (["x=1", "cd /", 'echo "$x $PWD"'], 0, "1 /\n"),
        (["if false; then\n  echo no\nfi", "echo b"], 0, "b\n"),
        (["(exit 7)", "echo no"], 7, ""),
        (["echo a", "exit 0", "echo no"], 0, "a\n"),
        (["echo a \\", "echo b"], 0, "a\nb\n"),
        (["false \\", "echo no"], 1, ""),
        ([], 0, ""),
    ],
)
def test_script_is_a_chain(shell: str, lines: list[str], status: int, printed: str) -> None:
    ran = subprocess.run([shell, "-c", script_text(lines)], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout, ran.stderr) == (status, printed, "")


def test_shebang_makes_one_script_of_that_interpreter() -> None:
    lines = ["#!/usr/bin/env python3", "print(1)"]

    assert is_executable(lines)
    assert script_text(lines) == "#!/usr/bin/env python3\nprint(1)\n"
    assert not is_executable(["echo '#!'"])
