"""Inputs in S3 stores that are not the yard's own: whose credentials, which objects, and how to ask for them.

A request is signed ahead and then fetched like any web address; there is no client library. Credentials are
looked up by name: first in what the run brings along, then in the agent's own environment. The names are
those of the AWS tools, or the same after ``RUNYARD_S3_<BUCKET>_`` for one bucket alone (upper case, "_" for
whatever is no letter or digit).
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

from runyard_agent.domain.references import Pattern
from runyard_agent.http_connections import Request
from runyard_agent.transfers import Transfers
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput, NotFound, Unavailable
from runyard_core.presign import SigningKey, presign

OBJECTS_MAX = 100_000
"""Most objects that a pattern may mean."""

_KEY, _SECRET, _TOKEN = "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"
_REGIONS, _ENDPOINTS = ("REGION", "DEFAULT_REGION"), ("ENDPOINT_URL_S3", "ENDPOINT_URL")
_REGION_USUAL = "us-east-1"
_SIGNED_FOR = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object that a pattern means."""

    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BucketAccess:
    """How to ask for the objects of one bucket."""

    bucket: str
    endpoint: str
    key: SigningKey | None
    """None asks as nobody: for public buckets."""

    def address(self, key: str) -> str:
        """Give the address of an object; a request's own has the time and a signature in it."""
        return f"{self.endpoint}/{self.bucket}/{key}"

    def request(self, key: str, clock: Clock, query: Mapping[str, str] | None = None) -> Request:
        """Make the request for an object, or with a query about the bucket."""
        # A key of nobody is signed, too, and the signature thrown away: quoting stays in one place.
        signing_key = self.key or SigningKey("", "", _REGION_USUAL)
        signed = presign(
            signing_key, "GET", self.address(key), now=clock.now(), expires=_SIGNED_FOR, query=query
        )
        if self.key is not None:
            return Request("GET", signed.url)
        path, _, parameters = signed.url.partition("?")
        plain = "&".join(each for each in parameters.split("&") if not each.startswith("X-Amz-"))
        return Request("GET", f"{path}?{plain}" if plain else path)


def bucket_access(bucket: str, sources: Sequence[Mapping[str, str]]) -> BucketAccess:
    """Find out how to reach a bucket: from the first source that says anything about a store.

    A source counts as a whole: an address that a run names must never get the credentials of somebody else.

    Raises:
        InvalidInput: a key without its secret, or an endpoint that is no address.
    """
    own = f"RUNYARD_S3_{re.sub('[^A-Z0-9]', '_', bucket.upper())}_"
    for source in sources:
        for prefix in (own, "AWS_"):
            named = {name.removeprefix(prefix): value for name, value in source.items() if value}
            values = {name: value for name, value in named.items() if f"{prefix}{name}" in source}
            if _KEY in values or any(name in values for name in _ENDPOINTS):
                return _access(bucket, values, prefix)
    return _access(bucket, {}, "AWS_")


def input_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Give what an environment says about stores, and nothing else of it."""
    return {name: value for name, value in environment.items() if name.startswith(("AWS_", "RUNYARD_S3_"))}


async def find_objects(
    access: BucketAccess, pattern: Pattern, transfers: Transfers, clock: Clock
) -> list[FoundObject]:
    """List the objects that a pattern means, in the order of their keys.

    Raises:
        NotFound: there are none.
        InvalidInput: more than ``OBJECTS_MAX`` begin so.
        RequestRefused, Unavailable: the store's answer.
    """
    found: list[FoundObject] = []
    seen_count = 0
    query = {"list-type": "2", "prefix": pattern.prefix}
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.xml"
        while True:
            await transfers.get(access.request("", clock, query), page)
            objects, following = await asyncio.to_thread(_read_page, page)
            seen_count += len(objects)
            if seen_count > OBJECTS_MAX:
                raise InvalidInput(f"more than {OBJECTS_MAX} objects begin with {pattern.prefix!r}")
            found += [each for each in objects if pattern.means(each.key) and not each.key.endswith("/")]
            if not following:
                break
            query["continuation-token"] = following
    if not found:
        raise NotFound("no object is meant by this pattern")
    return found


def _access(bucket: str, values: Mapping[str, str], prefix: str) -> BucketAccess:
    region = next((values[name] for name in _REGIONS if name in values), _REGION_USUAL)
    endpoint = next(
        (values[name] for name in _ENDPOINTS if name in values), f"https://s3.{region}.amazonaws.com"
    ).rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise InvalidInput(f"{prefix}{_ENDPOINTS[0]} is no http(s) address")
    if _KEY not in values:
        return BucketAccess(bucket, endpoint, None)
    if _SECRET not in values:
        raise InvalidInput(f"{prefix}{_KEY} is set, but not {prefix}{_SECRET}")
    key = SigningKey(values[_KEY], values[_SECRET], region, values.get(_TOKEN, ""))
    return BucketAccess(bucket, endpoint, key)


def _read_page(page: Path) -> tuple[list[FoundObject], str]:
    try:
        # The parser bounds what entities may expand to, and reads nothing from outside.
        root = ElementTree.parse(page).getroot()  # noqa: S314
    except ElementTree.ParseError as error:
        raise Unavailable(f"the store's list of objects cannot be read: {error}") from error
    objects = [
        FoundObject(each.findtext("{*}Key", ""), int(each.findtext("{*}Size", "0")))
        for each in root.findall("{*}Contents")
    ]
    following = root.findtext("{*}NextContinuationToken", "")
    if not following and root.findtext("{*}IsTruncated", "") == "true":
        raise Unavailable("the store's list of objects is cut, and does not say where the rest begins")
    return objects, following
