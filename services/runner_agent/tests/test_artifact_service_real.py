"""Outputs, inputs and code through the real artifact service, the real log and the real store."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from runyard.artifact.v1.artifact_service_pb2 import BlobRef, FindMissingBlobsRequest
from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.envelope_pb2 import Lane
from runyard.run.v1.types_pb2 import CodeRef, Environment, Input, OutputFile, Package
from runyard_agent import code, collecting, inputs, live_outputs
from runyard_agent.artifact_client import ArtifactClient
from runyard_agent.content_cache import ContentCache
from runyard_agent.domain.checkpoints import checkpoints_of
from runyard_agent.http_connections import Request
from runyard_agent.input_sources import InputRules, InputSources
from runyard_agent.inputs import InputsOf
from runyard_agent.live_outputs import LiveOutputs
from runyard_agent.outputs import OutputsOf
from runyard_agent.package_lists import PackageLists, list_content
from runyard_agent.transfers import Transfers
from runyard_contracts.ids import Sha256
from runyard_contracts.manifest import Entry, Mode, format_manifest
from runyard_core.clock import SystemClock
from runyard_core.errors import Unauthenticated, Unavailable
from runyard_engines import choose_port
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Bucket, Database

from .store_double import TOKEN, sha256_of

pytestmark = pytest.mark.engines

# Over 64 MiB the service asks for parts.
LARGE = os.urandom(1 << 20) * 70


@pytest.fixture
async def address(database: Database, bucket: Bucket, tmp_path: Path) -> AsyncIterator[str]:
    """Run the service as the process that it is; gives where it listens."""
    tokens = {"tokens": [{"sha256": sha256_of(TOKEN.encode()), "actor": "agent:node-1", "roles": ["agent"]}]}
    tokens_file = tmp_path / "tokens.json"
    tokens_file.write_text(json.dumps(tokens))
    listen = f"127.0.0.1:{choose_port()}"
    service = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runyard_artifact",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        env={
            **os.environ,
            "RUNYARD_LISTEN": listen,
            "RUNYARD_TOKENS_FILE": str(tokens_file),
            "RUNYARD_DATABASE_URL": database.url("artifact"),
            "RUNYARD_S3_ENDPOINT": bucket.endpoint,
            "RUNYARD_S3_REGION": bucket.region,
            "RUNYARD_S3_BUCKET": bucket.name,
            "RUNYARD_S3_ACCESS_KEY": bucket.access_key,
            "RUNYARD_S3_SECRET_KEY": bucket.secret_key,
        },
    )  # fmt: skip
    async with grpc.aio.insecure_channel(listen) as channel, asyncio.timeout(30):
        await channel.channel_ready()
    yield listen
    service.kill()
    await service.wait()


@pytest.fixture
async def client(address: str) -> AsyncIterator[ArtifactClient]:
    transfers = Transfers()
    found = ArtifactClient(address, TOKEN, transfers, patience_seconds=20)
    yield found
    await found.close()
    transfers.close()


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path / "cache")


def ways(client: ArtifactClient, cache: ContentCache) -> InputsOf:
    return InputsOf("vision", client, cache, InputSources(client, cache, InputRules(), SystemClock(), {}))


def outputs_of(client: ArtifactClient, folder: Path, told: list[str] | None = None) -> OutputsOf:
    said = told if told is not None else []
    origin = Origin(run_id="01990000-0000-7000-8000-000000000001", attempt=1, project="vision")
    return OutputsOf(client, folder, origin, folder.parent / "live.jsonl", said.append)


async def test_outputs_come_back_as_inputs_byte_for_byte(
    client: ArtifactClient, cache: ContentCache, tmp_path: Path
) -> None:
    folder = tmp_path / "outputs"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/small.txt").write_bytes(b"small")
    (folder / "empty").write_bytes(b"")
    (folder / "large.bin").write_bytes(LARGE)
    (folder / "latest.bin").symlink_to("large.bin")

    stored = await collecting.collect(outputs_of(client, folder))

    large = hashlib.sha256(LARGE).hexdigest()
    assert stored == [
        OutputFile(path="empty", sha256=sha256_of(b""), size_bytes=0),
        OutputFile(path="large.bin", sha256=large, size_bytes=len(LARGE)),
        OutputFile(path="latest.bin", sha256=large, size_bytes=len(LARGE)),
        OutputFile(path="sub/small.txt", sha256=sha256_of(b"small"), size_bytes=5),
    ]
    uris = [f"datum://{large}", f"datum://{sha256_of(b'small')}"]
    wanted = Input(name="data", uris=uris, keep_directories="full")
    [found] = await inputs.fetch(ways(client, cache), [wanted], tmp_path / "inputs")
    assert {file.sha256 for file in found.files} == {large, sha256_of(b"small")}
    assert (tmp_path / "inputs/data/sub/small.txt").read_bytes() == b"small"
    name = next(file.path for file in found.files if file.sha256 == large)
    assert hashlib.sha256((tmp_path / "inputs/data" / name).read_bytes()).hexdigest() == large


async def test_collecting_again_gives_the_same(client: ArtifactClient, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    folder = tmp_path / "outputs"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights")

    first = await collecting.collect(outputs_of(client, folder))

    again = await collecting.collect(outputs_of(client, folder))
    assert again == first


async def test_what_a_program_left_last_is_the_newest_though_it_was_there_before(
    client: ArtifactClient, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_outputs, "_LOOK_SECONDS", 0.01)
    folder = tmp_path / "outputs"
    folder.mkdir()
    names = [f"{way}-{bytes_of}.pt" for way in ("live", "left") for bytes_of in ("few", "many")]
    contents = {name: [b"one", b"two", b"one"] for name in names}
    contents["left-many.pt"] = contents["live-many.pt"] = [LARGE, b"two", LARGE]
    of, ended = outputs_of(client, folder), asyncio.Event()
    run_id = of.origin.run_id

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(LiveOutputs(of).follow(ended))
        for name, versions in contents.items():
            for content in versions if name.startswith("live") else versions[:2]:
                (folder / name).write_bytes(content)
                (folder / name).chmod(0o444)
                while (folder / name).exists():  # noqa: ASYNC110 - what is tested brings it about
                    await asyncio.sleep(0.01)
        ended.set()
    for name in names[2:]:
        (folder / name).write_bytes(contents[name][-1])
    stored = await collecting.collect(of)
    # An agent that was killed collects again: nothing is told once more.
    assert await collecting.collect(of) == stored

    wanted = {name: hashlib.sha256(versions[-1]).hexdigest() for name, versions in contents.items()}
    assert {file.path: file.sha256 for file in stored} == wanted
    async with await PostgresEventLog.connect(database.url("reader")) as log:
        events = (await log.read(Lane.LANE_DOMAIN)).events
    kinds = Counter(event.type for event in events)
    assert kinds == {"runyard.artifact.upload_begun": 3, "runyard.artifact.written": 3 * len(names)}
    # The catalogue is filled a moment later.
    async with asyncio.timeout(20):
        while max(file.position for file in await client.files_of_run(run_id)) < events[-1].position:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    newest = checkpoints_of(run_id, 2, await client.files_of_run(run_id))
    assert newest is not None
    assert {file.path: file.sha256 for file in newest.files} == wanted


async def test_outputs_come_back_by_the_names_that_their_run_gave_them(
    client: ArtifactClient, cache: ContentCache, tmp_path: Path
) -> None:
    folder = tmp_path / "outputs"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_text(name, encoding="utf-8")
        entry = {"uri": "dataset://cats/v1", "targeting_aliases": ["newest"]}
        said: dict[str, object] = {"valohai.dataset-versions": [entry]}
        said |= {"valohai.alias": "best-cat", "cute": True} if name == "b.jpg" else {}
        (folder / f"{name}.metadata.json").write_text(json.dumps(said), encoding="utf-8")
    told: list[str] = []

    await collecting.collect(outputs_of(client, folder, told))

    assert told == ["made datum://best-cat, dataset://cats/v1, dataset://cats/newest"]
    wanted = [
        Input(name="cats", uris=["dataset://cats/newest"]),
        Input(name="best", uris=["datum://best-cat"]),
    ]
    cats, best = await inputs.fetch(ways(client, cache), wanted, tmp_path / "inputs")
    assert [(file.path, file.resolved_uri) for file in cats.files] == [
        ("a.jpg", "dataset://cats/v1"), ("b.jpg", "dataset://cats/v1"),
    ]  # fmt: skip
    assert (tmp_path / "inputs/best/b.jpg").read_text(encoding="utf-8") == "b.jpg"
    assert best.files[0].properties["cute"] is True


async def test_a_code_tree_is_rebuilt(
    client: ArtifactClient, cache: ContentCache, address: str, tmp_path: Path
) -> None:
    content = b"print('hello')\n"
    manifest = format_manifest([Entry("a/train.py", Mode.FILE, Sha256(sha256_of(content)), len(content))])
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await ArtifactServiceStub(channel).FindMissingBlobs(
            FindMissingBlobsRequest(
                blobs=[BlobRef(sha256=sha256_of(data), size_bytes=len(data)) for data in (content, manifest)]
            ),
            metadata=(("authorization", f"Bearer {TOKEN}"),),
        )
    for missing in answer.missing:
        data = content if missing.sha256 == sha256_of(content) else manifest
        path = tmp_path / missing.sha256
        path.write_bytes(data)
        with path.open("rb") as file:
            request = Request(missing.put.method, missing.put.url, dict(missing.put.headers))
            await client.transfers.put(request, file.fileno(), offset_bytes=0, size_bytes=len(data))

    tree = CodeRef(tree_sha256=sha256_of(manifest))
    await code.checkout(client, tree, tmp_path / "repository", cache=cache)

    assert (tmp_path / "repository/a/train.py").read_bytes() == content


async def test_a_list_of_packages_is_stored_once_and_read_back(
    client: ArtifactClient, tmp_path: Path
) -> None:
    of_system = [Package(name=f"lib{number}", version="1.2-3", kind="deb") for number in range(300)]
    records = [Environment(packages=of_system) for _ in range(2)]

    for record in records:
        await PackageLists(client).share(record)

    sha256 = records[0].system_packages_sha256
    assert records[0] == records[1] == Environment(system_packages_sha256=sha256, system_package_count=300)
    await client.download(sha256, tmp_path / "list")
    assert (tmp_path / "list").read_bytes() == list_content(of_system)


async def test_a_file_that_nobody_has_is_named(
    client: ArtifactClient, cache: ContentCache, tmp_path: Path
) -> None:
    wanted = Input(name="data", uris=["datum://" + "0" * 64])
    with pytest.raises(Unavailable, match="00000000") as error:
        await inputs.fetch(ways(client, cache), [wanted], tmp_path / "inputs")
    assert error.value.code == "INPUT_UNAVAILABLE"


async def test_a_wrong_token_is_refused(address: str, tmp_path: Path) -> None:
    transfers = Transfers()
    client = ArtifactClient(address, "wrong", transfers, patience_seconds=5)
    with pytest.raises(Unauthenticated):
        await client.download("0" * 64, tmp_path / "file")
    await client.close()
    transfers.close()
