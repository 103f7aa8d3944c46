"""Run the benchmarks: ``make bench [ONLY=name]``. Writes build/bench/<name>.json and prints the table."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from tests.bench.result import Result, table, write

MODULES = ("eventlog", "replay", "verify", "personal", "yard", "agent")
OUT = Path("build") / "bench"


def main() -> int:
    """Run all modules, or the one named; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", default="", help=f"one of {', '.join(MODULES)}")
    only = parser.parse_args().only
    if only and only not in MODULES:
        parser.error(f"no benchmark {only!r}: one of {', '.join(MODULES)}")
    results: list[Result] = []
    for name in [only] if only else MODULES:
        sys.stderr.write(f"benchmark {name} ...\n")
        found: list[Result] = importlib.import_module(f"tests.bench.{name}").benchmarks()
        write(found, OUT / f"{name}.json")
        results += found
    verdicts = [result.met for result in results if result.met is not None]
    sys.stdout.write(f"{table(results)}\n{sum(verdicts)} of {len(verdicts)} targets are met\n")
    sys.stdout.write(f"by Python {sys.version}\n")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
