from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from runyard_core.presign import SigningKey, presign

KEY = SigningKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
NOON = datetime(2013, 5, 24, tzinfo=UTC)


def test_the_published_example_gives_the_published_signature() -> None:
    # Amazon S3 API reference, "Authenticating Requests: Using Query Parameters", its GET example.
    request = presign(
        KEY, "GET", "https://examplebucket.s3.amazonaws.com/test.txt", now=NOON, expires=timedelta(days=1)
    )
    assert request.url.endswith(
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )
    assert request.expires_at == datetime(2013, 5, 25, tzinfo=UTC)


def test_every_header_is_signed() -> None:
    headers = {"x-amz-checksum-sha256": "abc=", "If-None-Match": "*"}
    request = presign(KEY, "PUT", "http://h:1/b/k", now=NOON, expires=timedelta(minutes=1), headers=headers)
    assert "X-Amz-SignedHeaders=host%3Bif-none-match%3Bx-amz-checksum-sha256" in request.url
    assert request.headers == headers
    other = presign(
        KEY,
        "PUT",
        "http://h:1/b/k",
        now=NOON,
        expires=timedelta(minutes=1),
        headers={**headers, "If-None-Match": "x"},
    )
    assert other.url.rpartition("=")[2] != request.url.rpartition("=")[2]


def test_the_secret_stays_out_of_request_and_repr() -> None:
    request = presign(KEY, "GET", "http://h:1/b/k", now=NOON, expires=timedelta(minutes=1))
    assert KEY.secret_key not in request.url
    assert KEY.secret_key not in repr(KEY)


@pytest.mark.parametrize("expires", [timedelta(0), timedelta(days=8), timedelta(seconds=-1)])
def test_a_life_out_of_range_is_refused(expires: timedelta) -> None:
    with pytest.raises(ValueError, match="lives"):
        presign(KEY, "GET", "http://h:1/b/k", now=NOON, expires=expires)


def test_a_key_may_hold_what_separates_the_parts_of_an_address() -> None:
    request = presign(KEY, "GET", "http://h:1/b/a b#1?x.csv", now=NOON, expires=timedelta(1))
    assert request.url.startswith("http://h:1/b/a%20b%231%3Fx.csv?X-Amz-")


def test_a_header_with_a_line_break_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        presign(KEY, "GET", "http://h:1/b/k", now=NOON, expires=timedelta(1), headers={"a": "b\r\nc: d"})


def test_a_lent_key_says_so_and_the_store_can_tell() -> None:
    lent = SigningKey(KEY.access_key, KEY.secret_key, KEY.region, session_token="to/ken=")
    request = presign(lent, "GET", "http://h:1/b/k", now=NOON, expires=timedelta(minutes=1))
    own = presign(KEY, "GET", "http://h:1/b/k", now=NOON, expires=timedelta(minutes=1))
    assert "X-Amz-Security-Token=to%2Fken%3D" in request.url
    assert "to/ken=" not in repr(lent)
    assert own.url.rpartition("=")[2] != request.url.rpartition("=")[2]
