"""``python -m tests.sim [--seed N] [--seeds N]``: live through seeds, and tell how to repeat what fails."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

SEEDS = 100


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed (1)")
    parser.add_argument("--seeds", type=int, help=f"how many ({SEEDS}; 1 when --seed is given)")
    parser.add_argument("--json", action="store_true", help="one JSON line for each seed")
    asked = parser.parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets are walked in the order of hashes: that order belongs to the seed too.
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.sim", *arguments], environment)
    count = asked.seeds or (SEEDS if asked.seed is None else 1)
    first = 1 if asked.seed is None else asked.seed
    return _live_through(range(first, first + count), as_json=asked.json)


def _live_through(seeds: Sequence[int], *, as_json: bool) -> int:
    from tests.sim import report
    from tests.sim.simulation import simulate

    report.listen_to_logs()
    reached: Counter[str] = Counter()
    failed: list[int] = []
    event_count, virtual_seconds = 0, 0.0
    began = time.perf_counter()
    for seed in seeds:
        result = simulate(seed)
        event_count += result.event_count
        virtual_seconds += result.virtual_seconds
        reached.update(result.reached.keys())
        if as_json:
            print(
                json.dumps({"seed": seed, "digest": result.digest, "events": result.event_count}), flush=True
            )
        if result.findings:
            failed.append(seed)
            print(report.failure(result, _commit()), flush=True)
    if not as_json:
        print(
            report.summary(
                len(seeds), failed, reached, event_count, virtual_seconds, time.perf_counter() - began
            )
        )
    return 1 if failed or report.unreached(len(seeds), reached) else 0


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "status", "--short"], capture_output=True, text=True, check=False)
    return (found.stdout.strip() or "unknown") + (" with changes" if changed.stdout.strip() else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
