"""The result of one measurement, and how it is kept and shown."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    """One measured quantity. ``value`` is the median of ``samples``."""

    name: str
    value: float
    unit: str
    better: str
    """"higher" or "lower"."""
    target: float | None = None
    baseline_name: str = ""
    """The raw engine, command or peer measured in the same run."""
    baseline_value: float | None = None
    samples: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Ours over the baseline's."""
        return self.value / self.baseline_value if self.baseline_value else None

    @property
    def met(self) -> bool | None:
        """Whether the target holds; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


def measured(
    name: str,
    samples: Sequence[float],
    unit: str,
    better: str,
    *,
    target: float | None = None,
    baseline: tuple[str, Sequence[float]] | None = None,
) -> Result:
    """Make a result out of samples: medians of both sides."""
    return Result(
        name=name,
        value=statistics.median(samples),
        unit=unit,
        better=better,
        target=target,
        baseline_name=baseline[0] if baseline else "",
        baseline_value=statistics.median(baseline[1]) if baseline else None,
        samples=[round(sample, 6) for sample in samples],
    )


def write(results: Sequence[Result], path: Path) -> None:
    """Write results as a JSON list, with the Python that they are of: builds differ by up to a quarter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [{**asdict(r), "ratio": r.ratio, "python": sys.version} for r in results]
    path.write_text(json.dumps(found, indent=2) + "\n")


def table(results: Sequence[Result]) -> str:
    """Give the results as a table for people."""
    rows = [("what", "value", "target", "met", "beside", "ratio")]
    for r in results:
        sign = ">=" if r.better == "higher" else "<="
        rows.append(
            (
                r.name,
                f"{r.value:,.4g} {r.unit}" if r.value < 1000 else f"{r.value:,.0f} {r.unit}",
                f"{sign} {r.target:,g}" if r.target is not None else "-",
                {True: "yes", False: "NO", None: "-"}[r.met],
                f"{r.baseline_name}: {r.baseline_value:,.4g}" if r.baseline_value is not None else "-",
                f"{r.ratio:.2f}" if r.ratio is not None else "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )
