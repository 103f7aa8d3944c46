"""Which yard to talk to: addresses and token, in a file that only its owner can read, or in the environment.

RUNYARD_HOME     the folder of ``context.json``; ~/.runyard
RUNYARD_TOKEN    an access token (``runyard people invite``): wins over the file, for programs without one
RUNYARD_SERVER   host:port of the yard, when it is not as the token says
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runyard_client.errors import LocalError

if TYPE_CHECKING:
    from runyard_contracts.pinned_gate import Gate

TOKEN_VARIABLE = "RUNYARD_TOKEN"  # noqa: S105 - the name of a variable
SERVER_VARIABLE = "RUNYARD_SERVER"

SERVICES = ("scheduler", "artifact", "metrics", "cost", "lineage")


@dataclass(frozen=True, slots=True)
class Context:
    """The addresses of a yard's services, and what proves who is calling."""

    addresses: Mapping[str, str]
    """Service name -> "host:port". All the same when one gate or router stands before them."""
    token: str = field(repr=False)
    """Bearer token of the caller."""
    authority_pem: str = field(default="", repr=False)
    """Certificate that signs what the yard's gate shows; empty: the yard is spoken to without TLS."""

    @property
    def gate(self) -> Gate | None:
        """The way to a yard on another machine; None when there is nothing between."""
        if not self.authority_pem:
            return None
        # Imported here: who speaks to a yard on this machine should not pay for TLS.
        from runyard_contracts.pinned_gate import Gate

        return Gate(self.addresses["scheduler"], self.authority_pem)


def runyard_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Give the directory of this machine's yard: ``$RUNYARD_HOME``, else ``~/.runyard``."""
    named = environment.get("RUNYARD_HOME", "")
    return Path(named).expanduser() if named else Path.home() / ".runyard"


def load_context(home: Path | None = None, environment: Mapping[str, str] = os.environ) -> Context:
    """Read ``context.json`` of a yard's directory, or without one what the environment says.

    A token in the environment is looked up at the yard's gate: that blocks, for some milliseconds.

    Raises:
        LocalError: ``NO_CONTEXT`` when there is none, ``BAD_CONTEXT`` when it cannot be used, ``BAD_TOKEN``.
        Unreachable: the gate that the token of the environment names does not answer.
        ClientError: ``WRONG_CERTIFICATE``, somebody else answers there.
    """
    if home is None and environment.get(TOKEN_VARIABLE):
        from runyard_client.entering import enter

        return enter(environment[TOKEN_VARIABLE], environment.get(SERVER_VARIABLE, ""))
    path = (home or runyard_home()) / "context.json"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LocalError(
            "NO_CONTEXT",
            f"no yard is known here ({path} does not exist): start one with `runyard up`, "
            "or enter one on another machine with `runyard context enter`",
        ) from None
    except (OSError, ValueError) as error:
        raise LocalError("BAD_CONTEXT", f"{path} cannot be read: {error}") from None
    try:
        addresses = {service: str(content["addresses"][service]) for service in SERVICES}
        return Context(
            addresses=addresses, token=str(content["token"]), authority_pem=str(content.get("authority", ""))
        )
    except (KeyError, TypeError) as error:
        raise LocalError(
            "BAD_CONTEXT", f"{path} lacks {error}: write it again with `runyard context enter`"
        ) from None


def save_context(context: Context, home: Path | None = None) -> Path:
    """Write ``context.json`` (mode 0600) in one step, and give its path."""
    # Imported here: reading a context, which every command does, should not pay for it.
    import tempfile

    directory = home or runyard_home()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    content: dict[str, object] = {"addresses": dict(context.addresses), "token": context.token}
    if context.authority_pem:
        content["authority"] = context.authority_pem
    # mkstemp makes the file 0600 from the start: the token is never readable by others.
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".context-")
    path = directory / "context.json"
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
        Path(temporary).replace(path)
    finally:
        # Nothing of a token stays behind when the disk is full.
        Path(temporary).unlink(missing_ok=True)
    return path
