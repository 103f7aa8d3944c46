"""The text of an enrolment token, from the yard to a machine."""

from __future__ import annotations

import hashlib

import pytest

from runyard.node.v1.enrolment_service_pb2 import EnrolmentToken
from runyard_contracts.enrolment_token import (
    format_enrolment_token,
    parse_enrolment_token,
)
from runyard_contracts.token_text import TokenError, is_address, is_secret

TOKEN = EnrolmentToken(
    node_id="gpu-1",
    address="yard.example:7443",
    certificate_sha256=hashlib.sha256(b"certificate").digest(),
    secret="s" * 43,
)


def test_a_token_says_what_was_put_into_it() -> None:
    text = format_enrolment_token(TOKEN)
    assert text.isascii()
    assert "\n" not in text
    assert parse_enrolment_token(f"  {text}\n") == TOKEN


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_token_that_lost_its_end_is_damaged(cut: int) -> None:
    with pytest.raises(TokenError, match="damaged"):
        parse_enrolment_token(format_enrolment_token(TOKEN)[:-cut])


def test_a_token_with_one_wrong_character_is_damaged() -> None:
    text = format_enrolment_token(TOKEN)
    for place in range(len("rye1."), len(text)):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        if changed[:-1] != text[:-1]:  # the bits that fill up the last character mean nothing
            with pytest.raises(TokenError, match="damaged"):
                parse_enrolment_token(changed)


@pytest.mark.parametrize(
    "wrong",
    [
        EnrolmentToken(node_id="Not A Name"),
        EnrolmentToken(address="no-port"),
        EnrolmentToken(certificate_sha256=b"short"),
        EnrolmentToken(secret="guessable"),
    ],
)
def test_a_token_that_holds_nonsense_is_refused(wrong: EnrolmentToken) -> None:
    token = EnrolmentToken()
    token.CopyFrom(TOKEN)
    token.MergeFrom(wrong)
    with pytest.raises(TokenError):
        parse_enrolment_token(format_enrolment_token(token))


def test_other_texts_are_no_tokens() -> None:
    with pytest.raises(TokenError, match=r"begins with rye1\."):
        parse_enrolment_token("hunter2")


def test_addresses_have_a_host_and_a_port() -> None:
    assert all(map(is_address, ["10.0.0.5:7443", "yard.example:1", "[fe80::1]:65535"]))
    assert not any(map(is_address, ["10.0.0.5", "yard:0", "yard:65536", "http://yard:1", "a b:1", ":1"]))


def test_secrets_are_32_bytes_in_base64url() -> None:
    assert is_secret("A" * 43)
    assert not any(map(is_secret, ["", "A" * 42, "A" * 44, "A" * 42 + "="]))
