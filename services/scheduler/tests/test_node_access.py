"""Given-when-then on how machines become nodes: invited, enrolled, revoked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message

from runyard.node.v1 import events_pb2 as ev
from runyard_contracts.ids import NodeId
from runyard_scheduler.domain import node as domain
from runyard_scheduler.domain.node import NODE
from runyard_scheduler.domain.node_access import Enroll, Invite, Revoke
from runyard_testkit import given

from .yard import an_inventory

ID = NodeId("gpu-1")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ENROLLED = ev.NodeEnrolled(node_id=ID, inventory=an_inventory())
ATTACHED = ev.NodeAttached(node_id=ID, boot_id="boot-1")
ATTACH = domain.Attach(ID, an_inventory())


def invited(token: str = "token-1") -> ev.NodeInvited:
    event = ev.NodeInvited(node_id=ID, token_sha256=token)
    event.expires_at.FromDatetime(NOON + HOUR)
    return event


def issued(token: str = "token-1", credential: str = "credential-1") -> ev.NodeCredentialIssued:
    return ev.NodeCredentialIssued(
        node_id=ID, token_sha256=token, credential_sha256=credential, bus_password_bcrypt="$2b$04$x"
    )


def revoked(credential: str = "credential-1") -> ev.NodeRevoked:
    return ev.NodeRevoked(node_id=ID, reason="sold", credential_sha256=credential)


def enroll(token: str = "token-1", credential: str = "credential-1", at: datetime = NOON) -> Enroll:
    return Enroll(ID, token, credential, "$2b$04$x", an_inventory(), at)


INVITE = Invite(ID, "token-1", NOON + HOUR)
REVOKE = Revoke(ID, "sold")
MEMBER: tuple[Message, ...] = (invited(), issued(), ENROLLED, ATTACHED)


def test_a_machine_that_was_invited_enrolls_and_attaches() -> None:
    scenario = given(NODE).when(INVITE).then(invited())
    scenario.when(enroll()).then(issued(), ENROLLED).when(ATTACH).then(ATTACHED)


def test_nobody_is_let_in_without_an_invitation() -> None:
    given(NODE).when(enroll()).then_rejected("TOKEN_REPLACED")


def test_a_token_is_good_once() -> None:
    given(NODE, *MEMBER).when(enroll(credential="credential-2")).then_rejected("TOKEN_USED")


def test_a_token_expires_at_its_time() -> None:
    given(NODE, invited()).when(enroll(at=NOON + HOUR - timedelta(seconds=1))).then(issued(), ENROLLED)
    given(NODE, invited()).when(enroll(at=NOON + HOUR)).then_rejected("TOKEN_EXPIRED")


def test_a_newer_token_voids_the_older() -> None:
    newer = given(NODE, invited(), invited("token-2"))
    newer.when(enroll()).then_rejected("TOKEN_REPLACED")
    newer.when(enroll("token-2")).then(issued("token-2"), ENROLLED)


def test_a_node_enrolls_again_with_another_token_and_credential() -> None:
    again = given(NODE, *MEMBER, invited("token-2"))
    again.when(enroll("token-2", "credential-2")).then(issued("token-2", "credential-2"))


def test_a_revoked_node_is_detached_and_cannot_attach() -> None:
    detached = ev.NodeDetached(node_id=ID, reason="revoked")
    out = given(NODE, *MEMBER).when(REVOKE).then(revoked(), detached)
    out.when(ATTACH).then_rejected("NODE_REVOKED")
    out.when(REVOKE).then_nothing()


def test_a_revoked_node_comes_back_with_a_new_token() -> None:
    detached = ev.NodeDetached(node_id=ID, reason="revoked")
    out = given(NODE, *MEMBER, revoked(), detached, invited("token-2"))
    out.when(ATTACH).then_rejected("NODE_REVOKED")
    back = out.when(enroll("token-2", "credential-2")).then(issued("token-2", "credential-2"))
    back.when(ATTACH).then(ATTACHED)


def test_revoking_an_invitation_withdraws_its_token() -> None:
    withdrawn = given(NODE, invited()).when(REVOKE).then(revoked(""))
    withdrawn.when(enroll()).then_rejected("TOKEN_WITHDRAWN")


def test_a_node_of_the_tokens_file_is_neither_invited_nor_revoked() -> None:
    own = given(NODE, ENROLLED, ATTACHED)
    own.when(INVITE).then_rejected("NODE_NAME_TAKEN")
    own.when(REVOKE).then_rejected("NOT_ENROLLED_BY_TOKEN")


def test_what_was_never_a_node_cannot_be_revoked() -> None:
    given(NODE).when(REVOKE).then_rejected("NODE_NOT_FOUND")


def test_only_enrolled_nodes_that_were_not_revoked_are_members() -> None:
    assert not NODE.fold([invited()], NODE.initial).is_member
    assert NODE.fold(MEMBER, NODE.initial).is_member
    assert not NODE.fold([*MEMBER, revoked()], NODE.initial).is_member
