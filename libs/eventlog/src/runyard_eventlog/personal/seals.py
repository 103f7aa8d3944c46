"""The sealed form of a piece of text, and the key of one person that makes and opens it.

Sealed text is ``~<person id>.<ciphertext>~``, both in URL-safe base64: it says where it begins and ends, so
it can stand within a sentence or within JSON. It is made with AES-SIV (RFC 5297), which needs no nonce: the
same text under the same key always gives the same bytes. So a repeated request stays the same request, two
services seal the same author alike, and a filter for a person is an equality.
"""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from runyard_core.errors import Corrupt

ERASED = "[erased]"
"""What sealed text reads when its key was shredded."""
SEALED = "[sealed]"
"""What it reads for whoever has no keys: a copy of the log outside of its yard."""
PERSON_ID = re.compile(r"~[A-Za-z0-9_-]{16}")
"""How a sealed text begins: who it is about."""
PERSON_ID_BYTES = 12
KEY_BYTES = 64

_SEALED_TEXT = re.compile(r"~(?P<person>[A-Za-z0-9_-]{16})\.(?P<text>[A-Za-z0-9_-]{23,})~")
_SEALED_BYTES = re.compile(rb"~[A-Za-z0-9_-]{16}\.[A-Za-z0-9_-]{23,}~")
_CONTEXT = b"runyard sealed text 1"


class PersonKey:
    """Seals and opens text of one person."""

    def __init__(self, person_id: bytes, key: bytes) -> None:
        """Use a key of ``KEY_BYTES``."""
        self._person_id = person_id
        self._cipher = AESSIV(key)

    def seal(self, text: str) -> str:
        """Give the one sealed form of a text, which must not be empty."""
        ciphertext = self._cipher.encrypt(text.encode(), [_CONTEXT, self._person_id])
        return f"~{person_name(self._person_id)}.{_base64(ciphertext)}~"

    def open(self, sealed: str) -> str:
        """Give the text again.

        Raises:
            Corrupt: this is not what ``seal`` of this key gave.
        """
        found = _SEALED_TEXT.fullmatch(sealed)
        try:
            if found is None:
                raise ValueError("not sealed text")
            return self._cipher.decrypt(_bytes(found["text"]), [_CONTEXT, self._person_id]).decode()
        except (InvalidTag, ValueError) as error:
            raise Corrupt(f"sealed text that its key does not open: {sealed}", code="BAD_SEAL") from error


def new_person() -> tuple[bytes, bytes]:
    """Draw a person id and a key."""
    return os.urandom(PERSON_ID_BYTES), os.urandom(KEY_BYTES)


def person_name(person_id: bytes) -> str:
    """Write a person id."""
    return _base64(person_id)


def person_of(sealed: str) -> bytes:
    """Give the person id that a sealed text begins with."""
    return _bytes(sealed[1:17])


def sealed_in(text: str) -> list[str]:
    """Find everything sealed in a text."""
    return [found.group() for found in _SEALED_TEXT.finditer(text)] if "~" in text else []


def sealed_within(content: bytes) -> set[str]:
    """Find everything sealed in a serialised message."""
    return {found.decode() for found in set(_SEALED_BYTES.findall(content))}


def replaced(text: str, replacement: Callable[[str], str]) -> str:
    """Put something in the place of everything sealed in a text."""
    if "~" not in text:
        return text
    return _SEALED_TEXT.sub(lambda found: replacement(found.group()), text)


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
