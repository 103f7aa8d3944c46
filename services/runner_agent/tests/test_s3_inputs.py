"""Inputs in an S3 store that is not the yard's own: whose credentials are used, and what is fetched."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from runyard.run.v1.types_pb2 import Input
from runyard_agent import inputs, s3_inputs
from runyard_agent.domain.references import Pattern
from runyard_agent.input_sources import InputRules, InputSources
from runyard_agent.inputs import InputsOf
from runyard_agent.s3_inputs import bucket_access, find_objects, input_credentials
from runyard_core.clock import ManualClock, SystemClock
from runyard_core.errors import InvalidInput, Unavailable
from runyard_testkit import Bucket

from .store_double import Yard, serving, sha256_of

KEYS = {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "s3cret"}
AGENTS = {"AWS_ACCESS_KEY_ID": "agents", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "eu-north-1"}


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with serving(tmp_path) as yard:
        yield yard


def test_what_the_run_brings_comes_before_what_the_agent_has() -> None:
    access = bucket_access("b", [KEYS, AGENTS])
    assert access.key is not None
    assert (access.key.access_key, access.key.region) == ("mine", "us-east-1")
    assert "s3cret" not in repr(access)


def test_the_agents_keys_serve_runs_that_bring_none() -> None:
    access = bucket_access("b", [{"MODE": "x", "AWS_REGION": "us-west-1"}, AGENTS])
    assert access.key is not None
    assert (access.key.access_key, access.endpoint) == ("agents", "https://s3.eu-north-1.amazonaws.com")


def test_an_address_that_a_run_names_never_gets_the_agents_keys() -> None:
    access = bucket_access("b", [{"AWS_ENDPOINT_URL": "https://evil.example/"}, AGENTS])
    assert (access.endpoint, access.key) == ("https://evil.example", None)


def test_a_bucket_may_have_names_of_its_own() -> None:
    own = {f"RUNYARD_S3_MY_DATA_{name.removeprefix('AWS_')}": value for name, value in KEYS.items()}
    access = bucket_access("my-data", [{}, {**own, **AGENTS}])
    assert access.key is not None
    assert access.key.access_key == "mine"


def test_nobody_asks_without_a_key_and_without_a_signature() -> None:
    access = bucket_access("b", [{}, {}])
    request = access.request("a b/c.csv", SystemClock(), {"prefix": "x/y"})
    assert request.url == "https://s3.us-east-1.amazonaws.com/b/a%20b/c.csv?prefix=x%2Fy"


@pytest.mark.parametrize("values", [{"AWS_ACCESS_KEY_ID": "x"}, {"AWS_ENDPOINT_URL": "evil"}])
def test_half_a_credential_is_refused(values: Mapping[str, str]) -> None:
    with pytest.raises(InvalidInput, match="AWS_"):
        bucket_access("b", [values])


def test_of_the_agents_environment_only_credentials_are_kept() -> None:
    kept = input_credentials(
        {**AGENTS, "RUNYARD_AGENT_TOKEN": "x", "PATH": "/bin", "RUNYARD_S3_B_REGION": "r"}
    )
    assert kept == {**AGENTS, "RUNYARD_S3_B_REGION": "r"}


@pytest.mark.parametrize("keep_directories", ["none", "suffix", "full"])
async def test_objects_of_a_real_store_are_listed_fetched_and_recorded(
    bucket: Bucket, yard: Yard, tmp_path: Path, keep_directories: str
) -> None:
    for key in ("images/a b.jpg", "images/x/c#1.jpg", "images/d.png"):
        data = key.encode()
        bucket.client.put_object(bucket.name, key, io.BytesIO(data), len(data))
    variables = {
        "AWS_ACCESS_KEY_ID": bucket.access_key,
        "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
        "AWS_REGION": bucket.region,
        "AWS_ENDPOINT_URL_S3": bucket.endpoint,
    }
    clock = ManualClock(SystemClock().now())
    sources = InputSources(yard.client, yard.cache, InputRules(), clock, variables)
    wanted = [
        Input(name="one", uris=[f"s3://{bucket.name}/images/d.png"], keep_directories=keep_directories),
        Input(name="set", uris=[f"s3://{bucket.name}/images/**.jpg"], keep_directories=keep_directories),
    ]
    of = InputsOf("vision", yard.client, yard.cache, sources)

    one, many = await inputs.fetch(of, wanted, tmp_path / "inputs")

    keeps = {
        "none": ["d.png", "a b.jpg", "c#1.jpg"],
        "suffix": ["d.png", "a b.jpg", "x/c#1.jpg"],
        "full": ["images/d.png", "images/a b.jpg", "images/x/c#1.jpg"],
    }[keep_directories]
    assert [file.path for file in (*one.files, *many.files)] == keeps
    assert many.files[1].resolved_uri == f"s3://{bucket.name}/images/x/c#1.jpg"
    assert many.files[1].sha256 == sha256_of(b"images/x/c#1.jpg")
    assert (tmp_path / "inputs/set" / keeps[2]).read_bytes() == b"images/x/c#1.jpg"
    # Signed anew, so asked at another address.
    clock.advance(timedelta(seconds=1))
    again = await inputs.fetch(of, wanted, tmp_path / "later")
    assert [file.moved_bytes for each in again for file in each.files] == [0, 0, 0]
    wrong = InputSources(
        yard.client, yard.cache, InputRules(), SystemClock(), {**variables, "AWS_SECRET_ACCESS_KEY": "wrong"}
    )
    with pytest.raises(Unavailable, match="answered 403") as error:
        await inputs.fetch(InputsOf("vision", yard.client, yard.cache, wrong), wanted, tmp_path / "again")
    assert "Signature=" not in error.value.message
    sources.close()
    wrong.close()


async def test_a_long_list_comes_in_pages(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    first = b"""<R xmlns="s3"><Contents><Key>p/1</Key><Size>1</Size></Contents>
        <NextContinuationToken>more</NextContinuationToken></R>"""
    second = b"<R><Contents><Key>p/2</Key><Size>2</Size></Contents><Contents><Key>q</Key></Contents></R>"
    access = bucket_access("b", [{"AWS_ENDPOINT_URL": yard.store.address}])
    yard.store.bodies["/b/"] = [first, second]

    found = await find_objects(access, Pattern("p/*"), yard.transfers, SystemClock())

    assert [(each.key, each.size_bytes) for each in found] == [("p/1", 1), ("p/2", 2)]
    yard.store.bodies["/b/"] = [first]
    monkeypatch.setattr(s3_inputs, "OBJECTS_MAX", 0)
    with pytest.raises(InvalidInput, match="more than 0 objects"):
        await find_objects(access, Pattern("p/*"), yard.transfers, SystemClock())


async def test_a_list_without_the_way_to_its_rest_is_not_taken_for_all(yard: Yard) -> None:
    # As a store answers that knows only the first form of lists, with markers.
    yard.store.bodies["/b/"] = [
        b"""<R xmlns="s3"><IsTruncated>true</IsTruncated><NextMarker>p/1</NextMarker>
        <Contents><Key>p/1</Key><Size>1</Size></Contents></R>"""
    ]
    access = bucket_access("b", [{"AWS_ENDPOINT_URL": yard.store.address}])

    with pytest.raises(Unavailable, match="does not say where the rest begins"):
        await find_objects(access, Pattern("p/*"), yard.transfers, SystemClock())
