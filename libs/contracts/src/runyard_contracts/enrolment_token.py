"""The text of an enrolment token: what a person carries from the yard to a machine that shall be a node."""

from __future__ import annotations

from runyard.node.v1.enrolment_service_pb2 import EnrolmentToken
from runyard_contracts.ids import is_name
from runyard_contracts.token_text import ENROLMENT, damaged, read_token, write_token


def format_enrolment_token(token: EnrolmentToken) -> str:
    """Write a token."""
    return write_token(ENROLMENT, token)


def parse_enrolment_token(text: str) -> EnrolmentToken:
    """Read a token.

    Raises:
        TokenError: it is none, or not a whole one.
    """
    token = read_token(ENROLMENT, text, EnrolmentToken)
    if not is_name(token.node_id):
        raise damaged(ENROLMENT)
    return token
