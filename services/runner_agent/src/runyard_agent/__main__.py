"""Starts the agent, or does one thing about it: ``python -m runyard_agent [COMMAND]``, see ``commands``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence

from runyard_core.errors import InvalidInput, RunyardError, Unavailable


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit code (``exit_code_of``), and says on standard error why it is not 0."""
    given = sys.argv[1:] if words is None else list(words)
    try:
        if not given:
            return _run(os.environ)
        # Not for the agent itself: what only a person's commands need stays out of its memory.
        from runyard_agent.commands import nobody_may_read, parser, run_command

        try:
            arguments = parser().parse_args(given)
            if arguments.command not in {None, "run"}:
                return run_command(arguments, os.environ)
        finally:
            with nobody_may_read():
                print(end="", flush=True)  # noqa: T201 - as it stands, also where standard output is closed
        chosen = {"RUNYARD_AGENT_DIR": str(arguments.directory)} if arguments.directory else {}
        return _run({**os.environ, **chosen})
    except RunyardError as error:
        sys.stderr.write(f"runyard-agent: {error.message} ({error.code})\n")
        return exit_code_of(error)


def exit_code_of(error: RunyardError) -> int:
    """Give what scripts can tell, as from ``runyard``: 2 wrong usage, 3 refused, 4 nobody answers."""
    match error:
        case InvalidInput():
            return 2
        case Unavailable():
            return 4
        case _:
            return 3


def _run(environment: Mapping[str, str]) -> int:
    from runyard_agent.enrolled import completed
    from runyard_agent.json_logging import configure_logging
    from runyard_agent.main import run_agent
    from runyard_agent.settings import read_settings
    from runyard_agent.tracing import configure_tracing

    environment = completed(environment)
    if not environment.get("RUNYARD_AGENT_TOKEN"):
        raise InvalidInput(
            "this machine has not enrolled: runyard-agent enroll, with a token of `runyard nodes invite`",
            code="NOT_ENROLLED",
        )
    settings = read_settings(environment)
    configure_logging(settings.node_id, settings.log_level)
    configure_tracing(settings.node_id, settings.otlp_endpoint)
    asyncio.run(run_agent(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
