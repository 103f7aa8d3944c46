"""The supervisor in the background: ``python -m runyard_embedded REPORT_FD``, run by ``up --background``."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict

from runyard_core.errors import RunyardError
from runyard_embedded.home import Home
from runyard_embedded.settings import YardSettings, forget_secrets
from runyard_embedded.state import Phase, YardState
from runyard_embedded.supervise import supervise


def main(report_descriptor: int) -> int:
    """Run the yard; report on the descriptor until it is up or has failed, one JSON object a line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    report = os.fdopen(report_descriptor, "w", encoding="utf-8", buffering=1)

    def publish(state: YardState) -> None:
        if report.closed:
            return
        try:
            report.write(json.dumps({"state": asdict(state)}) + "\n")
            if state.supervisor.phase is Phase.UP:
                report.close()
        except BrokenPipeError:  # whoever started us has gone; the yard is not theirs to lose
            os.close(report_descriptor)

    try:
        settings = YardSettings.from_environment(os.environ)
        forget_secrets(os.environ)
        supervise(Home.from_environment(), settings, publish)
    except RunyardError as error:
        logging.getLogger("runyard.supervisor").critical("%s: %s", error.code, error.message)
        if not report.closed:
            problem = {"code": error.code, "message": error.message, "metadata": error.metadata}
            report.write(json.dumps({"error": problem}) + "\n")
            report.close()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
