"""Resolve the dependencies of all our packages and the tools of development into constraints.txt.

Names, versions and hashes only: never where a package came from. Two parts: what runs, then the tools.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".tools" / "bin" / "uv"
CONSTRAINTS = ROOT / "constraints.txt"
OLDEST_PYTHON = "3.11"
TESTKIT = "runyard-testkit"
MARK = "# Tools of development"
HEAD = """\
# Third-party packages by version and hash: `make lock` writes this file. First what runs, then the tools.
"""


def main() -> None:
    """Resolve both parts and write the file."""
    packages = [tomllib.loads(path.read_text()) for path in sorted(ROOT.glob("[lsd]*/*/pyproject.toml"))]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    running = {line for one in packages if one["project"]["name"] != TESTKIT for line in needs(one)}
    running |= set(settings["dependency-groups"]["build"])
    testkit = {line for one in packages if one["project"]["name"] == TESTKIT for line in needs(one)}
    testkit |= {line for one in packages for line in extras(one)}
    runs = resolve(sorted(running), [])
    everything = resolve(sorted(running | testkit | set(settings["dependency-groups"]["dev"])), runs)
    tools = [block for block in everything if block not in runs]
    CONSTRAINTS.write_text("\n".join([HEAD.strip(), *runs, MARK, *tools]) + "\n")
    sys.stdout.write(f"{CONSTRAINTS.name}: {len(runs)} packages run, {len(tools)} more for development\n")


def needs(package: dict[str, Any]) -> set[str]:
    """Give what a package needs of others' packages."""
    return {line for line in package["project"]["dependencies"] if not line.startswith("runyard-")}


def extras(package: dict[str, Any]) -> set[str]:
    """Give what a package needs only for its optional parts."""
    optional: dict[str, list[str]] = package["project"].get("optional-dependencies", {})
    return {line for lines in optional.values() for line in lines if not line.startswith("runyard-")}


def resolve(requirements: list[str], pinned: list[str]) -> list[str]:
    """Resolve for every platform, a block of lines for each package; ``pinned`` blocks stay as they are."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, constraints = Path(folder) / "wanted.in", Path(folder) / "pinned.txt"
        wanted.write_text("\n".join(requirements))
        constraints.write_text(
            "\n".join(re.sub(r"\s*\\\n.*", "", block, flags=re.DOTALL) for block in pinned)
        )
        command = [str(UV), "pip", "compile", "--quiet", "--universal", "--python-version", OLDEST_PYTHON]
        command += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]
        command += ["--no-emit-find-links", "--constraints", str(constraints), str(wanted)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return re.findall(r"^\S.*?[^\\]$", done.stdout, flags=re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    main()
