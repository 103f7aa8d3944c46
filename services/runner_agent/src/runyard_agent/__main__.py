"""Starts the agent: ``python -m runyard_agent`` (settings come from the environment)."""

from __future__ import annotations

import asyncio
import os
import sys

from runyard_agent.json_logging import configure_logging
from runyard_agent.main import run_agent
from runyard_agent.settings import read_settings
from runyard_agent.tracing import configure_tracing
from runyard_core.errors import RunyardError


def main() -> int:
    """Run the agent; 2 means that it cannot start like this, and why is on standard error."""
    try:
        settings = read_settings(os.environ)
        configure_logging(settings.node_id, settings.log_level)
        configure_tracing(settings.node_id, settings.otlp_endpoint)
        asyncio.run(run_agent(settings))
    except RunyardError as error:
        sys.stderr.write(f"runyard-agent: {error.message} ({error.code})\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
