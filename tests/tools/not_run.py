"""Say which tests were not run and why, from pytest's reports; nothing when all were."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as Xml


def main(reports: list[Path]) -> None:
    """Print one line for each reason."""
    reasons: Counter[str] = Counter()
    for report in reports:
        for case in Xml.parse(report).iter("testcase"):
            reasons.update(skip.get("message", "no reason given") for skip in case.iter("skipped"))
    for reason, count in sorted(reasons.items()):
        print(f"NOT RUN: {count} test{'' if count == 1 else 's'}: {reason}")
    if not reasons:
        print("Every test was run.")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
