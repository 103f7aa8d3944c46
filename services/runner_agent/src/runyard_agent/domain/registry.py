"""What a registry means when it gives an image to nobody, in words that say what to do."""

from __future__ import annotations

import re

from runyard_contracts.images import REGISTRY_SECRET

# Of Docker's daemons and registries; there is no code for it that all of them use.
_REFUSALS = re.compile(
    r"unauthori[sz]ed|authentication required|no basic auth|\bdenied\b|incorrect username|forbidden|401|403",
    re.IGNORECASE,
)


def pull_refused(registry: str, words: str, *, has_login: bool) -> str:
    """Say who was refused what, and which secret of the project it is about; empty when it is no refusal."""
    if _REFUSALS.search(words) is None:
        return ""
    secret = f"{REGISTRY_SECRET}{registry}"
    if has_login:
        return f"registry {registry} refused the login that the project keeps as secret {secret!r} ({words})"
    return (
        f"registry {registry} wants a login: keep one as a secret of the project with "
        f"`runyard secret set {secret}`, value user:password ({words})"
    )
