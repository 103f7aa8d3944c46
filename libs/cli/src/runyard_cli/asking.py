"""Asking before something is done that cannot be taken back."""

from __future__ import annotations

import sys

import click

from runyard_cli.failures import ExitCode, fail


def ask_first(question: str, *, reason: str, message: str, advice: str) -> None:
    """Go on only when the person at the terminal says yes; a no ends as Ctrl-C does.

    Args:
        question: to be answered with yes or no.
        reason: stable reason code of the refusal where there is no terminal to ask on.
        message: what that refusal says.
        advice: how to say beforehand what would be answered.
    """
    if not sys.stdin.isatty():
        fail(ExitCode.REFUSED, reason, message, advice)
    click.confirm(question, abort=True, err=True)
