"""The text of an access token, from the yard to a person."""

from __future__ import annotations

import hashlib

import pytest

from runyard.access.v1.access_token_pb2 import AccessToken
from runyard.node.v1.enrolment_service_pb2 import EnrolmentToken
from runyard_contracts.access_token import format_access_token, parse_access_token
from runyard_contracts.enrolment_token import format_enrolment_token, parse_enrolment_token
from runyard_contracts.token_text import TokenError

TOKEN = AccessToken(
    address="yard.example:7443",
    certificate_sha256=hashlib.sha256(b"certificate").digest(),
    secret="s" * 43,
)


def test_a_token_says_what_was_put_into_it() -> None:
    assert parse_access_token(f"  {format_access_token(TOKEN)}\n") == TOKEN


@pytest.mark.parametrize("cut", [1, 5, 40, 120])
def test_a_token_that_lost_its_end_is_damaged(cut: int) -> None:
    with pytest.raises(TokenError, match="damaged"):
        parse_access_token(format_access_token(TOKEN)[:-cut])


@pytest.mark.parametrize("field", ["address", "certificate_sha256", "secret"])
def test_a_token_that_lacks_something_is_refused(field: str) -> None:
    token = AccessToken()
    token.CopyFrom(TOKEN)
    token.ClearField(field)  # type: ignore[arg-type]
    with pytest.raises(TokenError, match="damaged"):
        parse_access_token(format_access_token(token))


def test_a_token_for_somebody_else_says_for_whom() -> None:
    machine = EnrolmentToken(
        node_id="gpu-1", address=TOKEN.address, certificate_sha256=bytes(32), secret=TOKEN.secret
    )
    with pytest.raises(TokenError, match="runyard-agent enroll"):
        parse_access_token(format_enrolment_token(machine))
    with pytest.raises(TokenError, match="runyard context enter"):
        parse_enrolment_token(format_access_token(TOKEN))
    with pytest.raises(TokenError, match=r"begins with rya1\."):
        parse_access_token("hunter2")
