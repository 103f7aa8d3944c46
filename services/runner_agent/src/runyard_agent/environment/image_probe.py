"""What an image holds, as its own shell tells it: also of an image without Python."""

from __future__ import annotations

import json
from collections.abc import Mapping

from runyard.run.v1.types_pb2 import Environment
from runyard_agent.environment.record import read_probe
from runyard_agent.environment.system_packages import SCRIPT as SYSTEM_PACKAGES_SCRIPT
from runyard_agent.environment.system_packages import read_packages

# One fact a line, its parts separated by tabs. First the packages of Python, if there is one ("$1" is the
# probe for interpreters), then those of the system. Only what every shell has: "cat" may be missing.
SCRIPT = (
    r"""
p=$(command -v python3 || command -v python) && "$p" -I -c "$1" 2>/dev/null
printf 'shell\t%s\n' "$(command -v bash || command -v sh)"
(. /etc/os-release && printf 'os\t%s\n' "$PRETTY_NAME") 2>/dev/null
read -r kernel </proc/sys/kernel/osrelease && printf 'kernel\t%s\n' "$kernel"
"""
    + SYSTEM_PACKAGES_SCRIPT
    + r"""
for file in /usr/lib/*-linux-gnu/libnccl.so.*.*.* /usr/lib64/libnccl.so.*.*.*; do
  [ ! -e "$file" ] || printf 'nccl\t%s\n' "${file#*.so.}"
done
if [ -r /usr/local/cuda/version.json ]; then
  text=; while read -r line; do text="$text $line"; done </usr/local/cuda/version.json
  printf 'cuda\t%s\n' "$text"
fi
"""
)
"""Run by ``sh -c SCRIPT probe PROBE_SOURCE`` it prints what ``read_image`` reads."""


def read_image(printed: str, variables: Mapping[str, str]) -> Environment:
    """Read what the script printed in an image that sets these variables.

    Raises:
        ValueError: something else.
    """
    lines = [line.split("\t") for line in printed.splitlines()]
    found = next((_of_python(parts[0]) for parts in lines if parts[0].startswith("{")), Environment())
    facts: dict[str, str] = {}
    for kind, *values in lines:
        if values:
            facts.setdefault(kind, values[0].strip())
    if "shell" not in facts:
        raise ValueError(f"not what the probe prints: {printed[:200]!r}")
    found.packages.extend(read_packages(lines))
    found.shell = facts["shell"]
    found.os = found.os or facts.get("os", "")
    found.kernel = found.kernel or facts.get("kernel", "")
    found.cuda_version = (
        found.cuda_version or _cuda_version(facts.get("cuda", "")) or variables.get("CUDA_VERSION", "")
    )
    found.nccl_version = found.nccl_version or facts.get("nccl", "") or variables.get("NCCL_VERSION", "")
    return found


def _of_python(line: str) -> Environment:
    try:
        return read_probe(line)
    except ValueError:
        return Environment()


def _cuda_version(text: str) -> str:
    try:
        return str(json.loads(text)["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return ""
