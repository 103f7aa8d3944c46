"""Which yard to talk to: addresses and token, in a file that only its owner can read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runyard_client.errors import LocalError

SERVICES = ("scheduler", "artifact", "metrics", "cost", "lineage")


@dataclass(frozen=True, slots=True)
class Context:
    """The addresses of a yard's services, and what proves who is calling."""

    addresses: Mapping[str, str]
    """Service name -> "host:port". All the same when one router stands before them."""
    token: str = field(repr=False)
    """Bearer token of the caller."""


def runyard_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Give the directory of this machine's yard: ``$RUNYARD_HOME``, else ``~/.runyard``."""
    named = environment.get("RUNYARD_HOME", "")
    return Path(named).expanduser() if named else Path.home() / ".runyard"


def load_context(home: Path | None = None) -> Context:
    """Read ``context.json`` of a yard's directory.

    Raises:
        LocalError: ``NO_CONTEXT`` when there is none, ``BAD_CONTEXT`` when it cannot be used.
    """
    path = (home or runyard_home()) / "context.json"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LocalError(
            "NO_CONTEXT",
            f"no yard is known here ({path} does not exist): start one with `runyard up`, "
            "or name one with `runyard context set`",
        ) from None
    except (OSError, ValueError) as error:
        raise LocalError("BAD_CONTEXT", f"{path} cannot be read: {error}") from None
    try:
        addresses = {service: str(content["addresses"][service]) for service in SERVICES}
        return Context(addresses=addresses, token=str(content["token"]))
    except (KeyError, TypeError) as error:
        raise LocalError(
            "BAD_CONTEXT", f"{path} lacks {error}: set it again with `runyard context set`"
        ) from None


def save_context(context: Context, home: Path | None = None) -> Path:
    """Write ``context.json`` (mode 0600) in one step, and give its path."""
    # Imported here: reading a context, which every command does, should not pay for it.
    import tempfile

    directory = home or runyard_home()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {"addresses": dict(context.addresses), "token": context.token}
    # mkstemp makes the file 0600 from the start: the token is never readable by others.
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".context-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    path = directory / "context.json"
    Path(temporary).replace(path)
    return path
