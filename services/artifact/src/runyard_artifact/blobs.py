"""Checks that the bytes under a SHA-256 have that SHA-256, before anybody writes down that they do.

A file that arrived in one request was checked by the store, which says so on every HEAD. One made of
parts, or in a store without checksums, is read back once. Bytes that are wrong are removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from runyard_artifact.domain.reference import object_key
from runyard_artifact.objects import ObjectStore, StoredObject
from runyard_core.errors import Rejected
from runyard_core.fan_out import fan_out

CHECKS_AT_ONCE = 64
"""Blobs looked up at once for one request; the store's threads are fewer."""

log = structlog.get_logger("runyard.artifact.blobs")


@dataclass(frozen=True, slots=True)
class Blob:
    """The content of a file."""

    sha256: str
    size_bytes: int


class Blobs:
    """The content-addressed part of the store."""

    def __init__(self, objects: ObjectStore) -> None:
        """Look into this store."""
        self._objects = objects

    async def find(self, sha256: str) -> StoredObject | None:
        """Give what the store has under a SHA-256. Bytes that it knows to be other ones are removed.

        Raises:
            Unavailable: the store does not answer (STORE_UNAVAILABLE).
        """
        found = await self._objects.head(object_key(sha256))
        if found is not None and found.sha256 not in (None, sha256):
            await self._remove(sha256, found, found.sha256)
            return None
        return found

    async def find_missing(self, sha256s: Iterable[str]) -> list[str]:
        """Give those of which the store has nothing, in the order given.

        Raises:
            Unavailable: the store does not answer (STORE_UNAVAILABLE).
        """

        async def missing(sha256: str) -> str | None:
            return sha256 if await self.find(sha256) is None else None

        return [found for found in await fan_out(CHECKS_AT_ONCE, missing, list(sha256s)) if found is not None]

    async def verify(self, blob: Blob, *, is_known: bool = False) -> None:
        """Hold that the store has exactly this content.

        Args:
            blob: what it must be.
            is_known: the log says that they were verified before: only the size is looked at.

        Raises:
            Rejected: OBJECT_MISSING, CHECKSUM_MISMATCH (and the bytes are removed) or SIZE_MISMATCH.
            Unavailable: the store does not answer (STORE_UNAVAILABLE).
        """
        found = await self._objects.head(object_key(blob.sha256))
        if found is None:
            raise _missing(blob)
        actual = blob.sha256 if is_known else found.sha256
        if actual is None:
            actual = await self._objects.sha256_of(object_key(blob.sha256), found)
            if actual is None:
                raise _missing(blob)
        if actual != blob.sha256:
            await self._remove(blob.sha256, found, actual)
            raise Rejected(
                f"the bytes uploaded as {blob.sha256} have SHA-256 {actual}; they are removed, upload again",
                code="CHECKSUM_MISMATCH",
                metadata={"sha256": blob.sha256, "actual": actual},
            )
        if found.size_bytes != blob.size_bytes:
            raise Rejected(
                f"file {blob.sha256} has {found.size_bytes} bytes in the store, not {blob.size_bytes}",
                code="SIZE_MISMATCH",
                metadata={"sha256": blob.sha256, "actual": str(found.size_bytes)},
            )

    async def verify_all(self, blobs: Iterable[Blob]) -> None:
        """Hold that the store has exactly each of these.

        Raises:
            Rejected: as ``verify``, for the first that is found wrong.
            Unavailable: the store does not answer (STORE_UNAVAILABLE).
        """
        await fan_out(CHECKS_AT_ONCE, self.verify, list(blobs))

    async def _remove(self, sha256: str, found: StoredObject, actual: str | None) -> None:
        log.error("wrong bytes removed", sha256=sha256, actual=actual, size_bytes=found.size_bytes)
        await self._objects.remove(object_key(sha256), found.etag)


def _missing(blob: Blob) -> Rejected:
    return Rejected(
        f"the store has no file {blob.sha256} ({blob.size_bytes} bytes); upload it first",
        code="OBJECT_MISSING",
        metadata={"sha256": blob.sha256},
    )
