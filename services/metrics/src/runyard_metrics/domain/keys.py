"""Text of users as a key of a table: without what PostgreSQL cannot store, and short enough for an index."""

from __future__ import annotations

import hashlib

KEY_CHARACTERS_MAX = 200


def key_text(text: str) -> str:
    """Give a text that can be a key; the same for the same text, and unchanged for every usual one.

    NUL becomes U+FFFD. A text over 200 characters keeps its start and gets a digest of the whole.
    """
    clean = text.replace("\x00", "\ufffd")
    if len(clean) <= KEY_CHARACTERS_MAX:
        return clean
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{clean[: KEY_CHARACTERS_MAX - 17]}~{digest}"
