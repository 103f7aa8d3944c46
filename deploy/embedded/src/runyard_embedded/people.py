"""Who else may use the yard: tokens of persons, beside the yard's own in the tokens file.

Only whoever owns the yard's folder gives and takes them: no service can, so no caller can make itself another
token. The services read the file again at the next call.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from runyard_contracts.token_text import SECRET_BYTES, secret_sha256
from runyard_core.errors import InvalidInput, NotFound
from runyard_embedded.home import Home, write_private

ID_DIGITS = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_USER = "user:"

Entry = Mapping[str, object]
"""A token as the file has it."""


@dataclass(frozen=True, slots=True)
class PersonToken:
    """One token of a person; the yard keeps its hash."""

    sha256: str
    actor: str
    roles: tuple[str, ...]
    invited_at: str
    """ISO 8601, as all times here. Only tokens of persons have it."""
    expires_at: str
    revoked_at: str = ""

    @property
    def person(self) -> str:
        """The name that events carry, sealed."""
        return self.actor.removeprefix(_USER)

    @property
    def id(self) -> str:
        """What tells this token from others of the person."""
        return self.sha256[:ID_DIGITS]

    def is_good(self, now: datetime) -> bool:
        """Say whether it opens anything."""
        return not self.revoked_at and now < datetime.fromisoformat(self.expires_at)


def invite(home: Home, person: str, now: datetime, expires_at: datetime) -> str:
    """Draw a token for a person, and give its secret, which is kept nowhere.

    Raises:
        InvalidInput: this is no name (BAD_PERSON).
    """
    if _NAME.fullmatch(person) is None:
        raise InvalidInput(
            f"{person!r} cannot name a person: want up to 64 of letters, digits and . _ @ + -",
            code="BAD_PERSON",
        )
    secret = secrets.token_urlsafe(SECRET_BYTES)
    token = PersonToken(
        sha256=secret_sha256(secret),
        actor=f"{_USER}{person}",
        roles=("client",),
        invited_at=now.isoformat(timespec="seconds"),
        expires_at=expires_at.isoformat(timespec="seconds"),
    )
    with _locked(home):
        own, people = _read(home)
        _write(home, own, [*people, token])
    return secret


def revoke(home: Home, person: str, now: datetime, *, token_id: str = "", forget: bool = False) -> int:
    """Make a person's tokens void, or one of them; give how many were good until now.

    Args:
        home: the yard.
        person: the name.
        now: the time.
        token_id: of one token; empty for all.
        forget: also take out of the file that there ever was one.

    Raises:
        NotFound: the person has no such token (NO_SUCH_TOKEN).
    """
    with _locked(home):
        own, people = _read(home)
        meant = [each for each in people if each.person == person and each.id.startswith(token_id)]
        if not meant:
            which = f"token {token_id}" if token_id else "token"
            raise NotFound(f"{person} has no {which} of this yard", code="NO_SUCH_TOKEN")
        at = now.isoformat(timespec="seconds")
        changed = [
            replace(each, revoked_at=each.revoked_at or at) if each in meant else each
            for each in people
            if not (forget and each in meant)
        ]
        _write(home, own, changed)
    return sum(each.is_good(now) for each in meant)


def tokens_of_people(home: Home) -> Sequence[PersonToken]:
    """Give every token that a person ever got, oldest first."""
    return _read(home)[1] if home.tokens_file.exists() else ()


def write_own_tokens(home: Home, own: Sequence[Entry]) -> None:
    """Write the yard's own tokens; those of persons stay."""
    with _locked(home):
        people = _read(home)[1] if home.tokens_file.exists() else ()
        _write(home, own, people)


def _read(home: Home) -> tuple[Sequence[Entry], Sequence[PersonToken]]:
    entries = json.loads(home.tokens_file.read_text(encoding="utf-8"))["tokens"]
    people = [
        PersonToken(**{**each, "roles": tuple(each["roles"])}) for each in entries if "invited_at" in each
    ]
    return [each for each in entries if "invited_at" not in each], people


def _write(home: Home, own: Sequence[Entry], people: Sequence[PersonToken]) -> None:
    write_private(home.tokens_file, {"tokens": [*own, *(asdict(each) for each in people)]})


@contextmanager
def _locked(home: Home) -> Iterator[None]:
    descriptor = os.open(home.folder / "tokens.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
