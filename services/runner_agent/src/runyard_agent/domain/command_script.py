"""The command lines of a run as one script: one shell for all, ended by the first line that fails."""

from __future__ import annotations

from collections.abc import Sequence

# A shell without a trap dies of the signal at once, and the attempt with it, while its program still uses its
# grace to save what it has. With one it waits for the program first; the program has the signal too.
_TRAPS = "trap 'exit 143' TERM; trap 'exit 130' INT\n"
_CHECK = '__runyard_status=$?; [ "$__runyard_status" -eq 0 ] || exit "$__runyard_status"'


def script_text(command_lines: Sequence[str]) -> str:
    """Write the command lines as a script for bash or sh.

    Lines are chained as if by ``&&``, but each on a line of its own, so that a comment or a trailing ``&``
    is no syntax error and ``export``, ``cd`` and ``source`` last until the end. Within one command line the
    shell's own rules hold: ``a; b`` goes on after a failing ``a``. With a first line ``#!...`` the lines
    are joined as they are, to be executed by the interpreter that it names.
    """
    if is_executable(command_lines):
        return "\n".join(command_lines) + "\n"
    # The empty line ends one that a backslash would have go on into the check.
    return _TRAPS + "".join(f"{line}\n\n{_CHECK}\n" for line in command_lines)


def is_executable(command_lines: Sequence[str]) -> bool:
    """Say whether the script names its own interpreter."""
    return bool(command_lines) and command_lines[0].startswith("#!")
