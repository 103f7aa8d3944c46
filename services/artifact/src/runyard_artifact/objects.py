"""The port to the object store: presigned requests for others, and our own checks of what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from runyard_core.presign import SignedRequest


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the store says of an object."""

    size_bytes: int
    etag: str
    sha256: str | None
    """Of the whole object, as the store checked it on arrival; None for one made of parts."""


class ObjectStore(Protocol):
    """What the service needs of a store. Every call may raise Unavailable (STORE_UNAVAILABLE)."""

    async def ensure_bucket(self) -> None:
        """Make the bucket unless it is there."""
        ...

    async def head(self, object_key: str) -> StoredObject | None:
        """Give what the store says of an object; None when it has none."""
        ...

    async def read(self, object_key: str, bytes_max: int) -> bytes | None:
        """Read an object; None when there is none, or when it is larger."""
        ...

    async def sha256_of(self, object_key: str, found: StoredObject) -> str | None:
        """Read the object that was found through and hash it; None when it is there no more."""
        ...

    async def remove(self, object_key: str, etag: str) -> None:
        """Remove an object if it is still the one with this ETag."""
        ...

    async def begin_multipart(self, object_key: str) -> str:
        """Begin an upload in parts; gives its id."""
        ...

    async def complete_multipart(self, object_key: str, upload_id: str, etags: Sequence[str]) -> None:
        """Join the parts, unless there is an object or the upload is over: then nothing happens.

        Raises:
            InvalidInput: the store does not have these parts (BAD_PARTS).
            Conflict: somebody else is writing the same object (UPLOAD_CONFLICT).
        """
        ...

    async def abort_multiparts(self, key_prefix: str, begun_before: datetime) -> int:
        """Remove the uploads in parts that were begun before then, with their parts; gives how many."""
        ...

    def presign_put(self, object_key: str, sha256: str) -> SignedRequest:
        """Sign the upload of a whole file: refused with other bytes, and when there is one already."""
        ...

    def presign_part(self, object_key: str, upload_id: str, number: int) -> SignedRequest:
        """Sign the upload of one part."""
        ...

    def presign_get(self, object_key: str) -> SignedRequest:
        """Sign a download."""
        ...
