"""Every sealed event can be proven to who has the public key alone, and nothing else can."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import uuid7
from runyard_core.errors import Corrupt, NotFound
from runyard_eventlog.proof import check_proof
from runyard_eventlog.stored_event import canonical_bytes
from runyard_eventlog.verification import prove, prove_event
from runyard_testkit.engines import run

from .sealed import flipped, flips, make_yard
from .stored import DOMAIN, LANES, Yard

pytestmark = pytest.mark.system

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "verify-the-log.md"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return run(make_yard(tmp_path_factory.mktemp("yard")))


@pytest.mark.parametrize("lane", LANES, ids=["domain", "telemetry"])
async def test_every_sealed_event_can_be_proven(yard: Yard, lane: Lane.ValueType) -> None:
    archive = yard.archive()
    rows = yard.stored.rows(lane)[: yard.sealed_to[lane]]
    assert rows
    for row in rows:
        proof = await prove_event(archive, yard.stored, str(row.event_id))
        proven = check_proof(proof, yard.key.public)
        assert proven.event == row
        assert len(proof) < 6_000


async def test_what_is_not_sealed_cannot_be_proven(yard: Yard) -> None:
    with pytest.raises(NotFound, match="not sealed yet"):
        await prove(yard.archive(), DOMAIN, yard.sealed_to[DOMAIN] + 1)
    with pytest.raises(NotFound, match="no event"):
        await prove_event(yard.archive(), yard.stored, uuid7())


@given(place=flips)
async def test_a_changed_proof_proves_nothing_else(yard: Yard, place: tuple[int, int]) -> None:
    proof = await prove(yard.archive(), DOMAIN, 11)
    genuine = check_proof(proof, yard.key.public)
    try:
        found = check_proof(flipped(proof, place), yard.key.public)
    except Corrupt:
        return
    # What is not signed may differ: times and size of the segment's file, white space.
    assert canonical_bytes(found.event, DOMAIN) == canonical_bytes(genuine.event, DOMAIN)
    assert found.manifest.segment_root == genuine.manifest.segment_root


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"format": "runyard-inclusion-proof-v1"}', b"[" * 100_000]
)
def test_what_is_no_proof_is_refused(yard: Yard, content: bytes) -> None:
    with pytest.raises(Corrupt):
        check_proof(content, yard.key.public)


async def test_the_script_of_the_page_checks_a_proof_as_we_do(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    compiled = compile(script, str(PAGE), "exec")
    file, key = tmp_path / "proof.json", tmp_path / "segment.key.pub"
    key.write_bytes(yard.key.public.pem)
    monkeypatch.setattr(sys, "argv", ["check", str(file), str(key)])
    for position in range(1, yard.sealed_to[DOMAIN] + 1):
        file.write_bytes(await prove(yard.archive(), DOMAIN, position))
        exec(compiled, {})
        assert capsys.readouterr().out.startswith(f"PROVEN {yard.stored.rows(DOMAIN)[position - 1].event_id}")
    proof = await prove(yard.archive(), DOMAIN, 24)
    for changed in (
        proof.replace(b'"position": 24', b'"position": 23'),
        proof.replace(b'"last_position": 24', b'"last_position": 25'),
        proof.replace(b'"canonical_base64": "AAE', b'"canonical_base64": "AAI'),
        proof.replace(b'"signature": "', b'"signature": "00'),
    ):
        assert changed != proof
        file.write_bytes(changed)
        with pytest.raises((AssertionError, InvalidSignature)):
            exec(compiled, {})
