"""What an environment holds, as the record of a run keeps it: packages, interpreter, system, variables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from runyard.run.v1.types_pb2 import Environment, EnvironmentVariable, Package

PROBE_SOURCE = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
"""Run by ``python -I -c`` it prints the line that ``read_probe`` reads."""

_SECRET_WORDS = frozenset(
    (
        *("apikey", "auth", "authorization", "cookie", "credential", "credentials", "dsn", "key", "keys"),
        *("pass", "passphrase", "passwd", "password", "pat", "pin", "private", "pwd", "secret", "secrets"),
        *("session", "signature", "token", "tokens"),
    )
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_SECRET_VALUE = re.compile(
    r"://[^/\s:@]+:[^/\s@]+@"  # credentials in an address
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|^(hf|ghp|gho|ghs|github_pat|glpat|sk|xox[abp])[-_][A-Za-z0-9_-]{16,}$"
    r"|^AKIA[0-9A-Z]{16}$"
    r"|^eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\."
)


def read_probe(line: str) -> Environment:
    """Read what the probe printed.

    Raises:
        ValueError: something else.
    """
    try:
        found = json.loads(line)
        return Environment(
            interpreter=found["interpreter"],
            interpreter_path=found["interpreter_path"],
            os=found["os"],
            kernel=found["kernel"],
            packages=[Package(name=name, version=version) for name, version in found["packages"]],
            cuda_version=found["cuda_version"],
            nccl_version=found["nccl_version"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not what the probe prints: {line[:200]!r}") from error


def recorded_variables(variables: Mapping[str, str]) -> list[EnvironmentVariable]:
    """Give variables by name, without the values that look like secrets: by their name, or by their form."""
    return [
        EnvironmentVariable(name=name, value="" if is_secret(name, value) else value)
        for name, value in sorted(variables.items())
    ]


def is_secret(name: str, value: str) -> bool:
    """Say whether a variable had better not be shown. "HF_TOKEN" is, "TOKENIZERS_PARALLELISM" is not."""
    words = {word.lower() for part in name.split("_") for word in _WORD.findall(part)}
    return bool(words & _SECRET_WORDS) or _SECRET_VALUE.search(value) is not None
