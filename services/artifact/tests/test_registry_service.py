"""Names of files, through the real service: described by a run, listed, and resolved as inputs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from runyard.artifact.v1 import artifact_service_pb2 as files_pb
from runyard.artifact.v1 import registry_service_pb2 as pb
from runyard.artifact.v1.registry_service_pb2_grpc import RegistryServiceStub
from runyard.artifact.v1.registry_types_pb2 import DescribedOutput
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.run.v1.types_pb2 import Input
from runyard_artifact import servicer
from runyard_servicekit.channels import service_channel

from .yard import TOKEN, Yard, new_id, reason, sha256_of

pytestmark = pytest.mark.engines

ORIGIN = Origin(run_id="run-1", attempt=1, project="vision")


@pytest.fixture
async def registry(yard: Yard) -> AsyncIterator[RegistryServiceStub]:
    channel = service_channel(yard.address, TOKEN)
    yield RegistryServiceStub(channel)
    await channel.close()


async def describe(
    yard: Yard, registry: RegistryServiceStub, metadata: dict[str, object], origin: Origin = ORIGIN
) -> pb.DescribeOutputsResponse:
    """Store a file for each path, whose bytes are its path, and describe it."""
    outputs = []
    for path, content in metadata.items():
        placed = Origin()
        placed.CopyFrom(origin)
        placed.path = path
        await yard.put(path.encode(), placed)
        outputs.append(
            DescribedOutput(
                path=path, sha256=sha256_of(path.encode()), size_bytes=len(path),
                metadata=ParseDict(content, Struct()),  # type: ignore[arg-type]
            )
        )  # fmt: skip
    request = pb.DescribeOutputsRequest(request_id=new_id(), origin=origin, outputs=outputs)
    answer: pb.DescribeOutputsResponse = await registry.DescribeOutputs(request)
    assert await registry.DescribeOutputs(request) == answer
    return answer


async def resolve(yard: Yard, uri: str, keep_directories: str = "none", at: int = 0) -> Input:
    wanted = Input(name="data", uris=[uri], keep_directories=keep_directories)
    request = files_pb.ResolveInputsRequest(inputs=[wanted], project="vision")
    if at:
        request.read.as_of.position = at
    return (await yard.artifact.ResolveInputs(request)).inputs[0]


async def test_what_a_run_says_of_its_outputs_becomes_names_for_them(
    yard: Yard, registry: RegistryServiceStub
) -> None:
    entry = {"uri": "dataset://images/v1", "targeting_aliases": ["newest"]}
    first = await describe(
        yard,
        registry,
        {
            "x/a.jpg": {"valohai.dataset-versions": [entry], "label": "cat", "n": 3},
            "b.jpg": {"valohai.dataset-versions": ["dataset://images/v1"], "valohai.alias": "best"},
            "model.pt": {"valohai.model-versions": ["model://resnet/"], "valohai.tags": ["good"]},
            "bad": {"valohai.alias": "no name"},
        },
    )
    assert first.made == [
        "datum://best",
        "dataset://images/v1",
        "dataset://images/newest",
        "model://resnet/1",
    ]
    assert len(first.problems) == 1
    base = {"uri": "dataset://images/v2", "from": "dataset://images/newest", "targeting_aliases": ["newest"]}
    again = Origin(run_id="run-2", attempt=1, project="vision")
    second = await describe(yard, registry, {"c.jpg": {"valohai.dataset-versions": [base]}}, again)
    assert second.made == ["dataset://images/v2", "dataset://images/newest"]

    await check_what_names_stand_for(yard, then=first.position)
    await check_what_is_listed(yard, registry, then=first.position, now=second.position)


async def check_what_names_stand_for(yard: Yard, then: int) -> None:
    by_alias = await resolve(yard, "dataset://images/newest", keep_directories="full")
    assert [(file.path, file.resolved_uri) for file in by_alias.files] == [
        (path, "dataset://images/v2") for path in ("b.jpg", "c.jpg", "x/a.jpg")
    ]
    assert MessageToDict(by_alias.files[2].properties) == {"label": "cat", "n": 3}
    plain = await resolve(yard, "dataset://images/v1")
    assert [(file.path, file.resolved_uri) for file in plain.files] == [("b.jpg", ""), ("a.jpg", "")]
    [aliased] = (await resolve(yard, "datum://best")).files
    assert (aliased.path, aliased.resolved_uri) == ("b.jpg", f"datum://{sha256_of(b'b.jpg')}")
    [model] = (await resolve(yard, "model://resnet/1")).files
    assert (model.path, model.sha256) == ("model.pt", sha256_of(b"model.pt"))

    # What a name stood for then.
    earlier = await resolve(yard, "dataset://images/newest", at=then)
    assert {file.resolved_uri for file in earlier.files} == {"dataset://images/v1"}
    with pytest.raises(grpc.aio.AioRpcError) as early:
        await resolve(yard, "datum://best", at=1)
    assert reason(early.value) == "BAD_DATUM"


async def check_what_is_listed(yard: Yard, registry: RegistryServiceStub, then: int, now: int) -> None:
    read = ReadOptions(min_position=now)
    whole = files_pb.GetArtifactRequest(name=sha256_of(b"model.pt"), read=read)
    assert list((await yard.artifact.GetArtifact(whole)).artifact.tags) == ["good"]
    whole.name = sha256_of(b"x/a.jpg")
    assert (await yard.artifact.GetArtifact(whole)).artifact.properties["label"] == "cat"
    [listed] = (await registry.ListDatasets(pb.ListDatasetsRequest(project="vision", read=read))).datasets
    assert (listed.name, listed.version_count, listed.newest_version) == ("images", 2, "v2")
    request = pb.ListDatasetVersionsRequest(project="vision", dataset="images", page_size=1, read=read)
    page = await registry.ListDatasetVersions(request)
    assert [(each.version, each.file_count, list(each.aliases)) for each in page.versions] == [
        ("v2", 3, ["newest"])
    ]
    request.page_token = page.next_page_token
    last = await registry.ListDatasetVersions(request)
    assert ([each.version for each in last.versions], last.next_page_token) == (["v1"], "")
    asked = pb.GetDatasetVersionRequest(project="vision", name="images/newest", read=read)
    shown = (await registry.GetDatasetVersion(asked)).version
    assert (shown.version, shown.from_version, shown.created_by) == (
        "v2",
        "dataset://images/v1",
        "user:alice",
    )
    assert [file.path for file in shown.files] == ["b.jpg", "c.jpg", "x/a.jpg"]
    before = ReadOptions(as_of=AsOf(position=then))
    asked = pb.GetDatasetVersionRequest(project="vision", name="images/newest", read=before)
    assert (await registry.GetDatasetVersion(asked)).version.version == "v1"

    [resnet] = (await registry.ListModels(pb.ListModelsRequest(project="vision", read=read))).models
    assert (resnet.name, resnet.version_count) == ("resnet", 1)
    versions = await registry.ListModelVersions(pb.ListModelVersionsRequest(project="vision", model="resnet"))
    assert [each.origin.run_id for each in versions.versions] == ["run-1"]
    found = await registry.GetModelVersion(pb.GetModelVersionRequest(project="vision", name="resnet"))
    assert [file.path for file in found.version.files] == ["model.pt"]


async def test_an_alias_stands_for_the_newest_of_several_versions_of_one_path(
    yard: Yard, registry: RegistryServiceStub
) -> None:
    placed = Origin(path="best.pt", run_id="run-1", attempt=1, project="vision")
    outputs = []
    for weights in (b"epoch 1", b"epoch 2"):
        await yard.put(weights, placed)
        metadata = ParseDict({"valohai.alias": "best"}, Struct())
        sha256, size_bytes = sha256_of(weights), len(weights)
        outputs.append(
            DescribedOutput(path="best.pt", sha256=sha256, size_bytes=size_bytes, metadata=metadata)
        )
    request = pb.DescribeOutputsRequest(request_id=new_id(), origin=ORIGIN, outputs=outputs)

    for _ in range(2):
        answer = await registry.DescribeOutputs(request)
        assert (list(answer.made), list(answer.problems)) == (["datum://best"] * 2, [])
        [aliased] = (await resolve(yard, "datum://best")).files
        assert aliased.sha256 == sha256_of(b"epoch 2")


async def test_a_run_may_make_several_versions_of_one_dataset(
    yard: Yard, registry: RegistryServiceStub
) -> None:
    second = {"uri": "dataset://images/v2", "from": "dataset://images/v1", "targeting_aliases": ["newest"]}
    answer = await describe(
        yard,
        registry,
        {
            "a.jpg": {"valohai.dataset-versions": [second, "dataset://images/v1"]},
            "b.jpg": {"valohai.dataset-versions": [second]},
        },
    )

    assert list(answer.made) == ["dataset://images/v1", "dataset://images/v2", "dataset://images/newest"]
    for name, paths in (("v1", ["a.jpg"]), ("v2", ["a.jpg", "b.jpg"]), ("newest", ["a.jpg", "b.jpg"])):
        assert [file.path for file in (await resolve(yard, f"dataset://images/{name}")).files] == paths


async def test_what_cannot_be_done_is_said_and_the_rest_is_done(
    yard: Yard, registry: RegistryServiceStub
) -> None:
    await describe(yard, registry, {"a": {"valohai.dataset-versions": ["dataset://images/v1"]}})
    answer = await describe(
        yard,
        registry,
        {
            "b": {
                "valohai.dataset-versions": [
                    "dataset://images/v1", {"uri": "dataset://images/v3", "from": "dataset://none/v1"},
                ],
                "valohai.alias": "best",
            },
            "c": {"note": "x" * 1_100_000, "valohai.model-versions": ["model://net/"]},
        },
    )  # fmt: skip
    assert answer.made == ["datum://best", "model://net/1"]
    too_large, known, unknown = answer.problems
    assert "properties of 'c' take 1100018 bytes; want at most 900000" in too_large
    assert ["versions never change" in known, "no dataset" in unknown] == [True, True]
    stranger = DescribedOutput(
        path="x", sha256="0" * 64, metadata=ParseDict({"valohai.alias": "x"}, Struct())
    )
    request = pb.DescribeOutputsRequest(request_id=new_id(), origin=ORIGIN, outputs=[stranger])
    assert (await registry.DescribeOutputs(request)).problems == [f"there is no file {'0' * 64}"]


async def test_inputs_that_no_answer_holds_are_refused_with_what_to_do(
    yard: Yard, registry: RegistryServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"valohai.dataset-versions": ["dataset://images/v1"], "note": "x" * 2_000}
    await describe(yard, registry, {"a": said, "b": said})
    assert len((await resolve(yard, "dataset://images/v1")).files) == 2
    monkeypatch.setattr(servicer, "RESOLVED_BYTES_MAX", 3_000)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await resolve(yard, "dataset://images/v1")
    assert reason(refused.value) == "TOO_MANY_FILES"
    assert "input 'data' stands for 2 files" in str(refused.value.details())


async def test_what_no_table_can_hold_is_said_and_harms_nobody(
    yard: Yard, registry: RegistryServiceStub
) -> None:
    odd = {"valohai.tags": ["a\0b", "good"], "note\0": "c\0d", "valohai.model-versions": ["model://net/"]}
    answer = await describe(yard, registry, {"model.pt": odd})
    assert (list(answer.made), len(answer.problems)) == (["model://net/1"], 1)
    read = ReadOptions(min_position=answer.position)
    whole = files_pb.GetArtifactRequest(name=sha256_of(b"model.pt"), read=read)
    assert list((await yard.artifact.GetArtifact(whole)).artifact.tags) == ["good"]
    stranger = Origin(run_id="run\0", project="vision")
    asked: list[tuple[Any, object]] = [
        (registry.DescribeOutputs, pb.DescribeOutputsRequest(request_id=new_id(), origin=stranger)),
        (yard.artifact.ListArtifacts, files_pb.ListArtifactsRequest(run_id="run\0")),
    ]
    for call, request in asked:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(request)
        assert reason(refused.value) == "BAD_RUN_ID"


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("datum://nobody", "BAD_DATUM"),
        ("dataset://none/v1", "DATASET_NOT_FOUND"),
        ("dataset://none", "BAD_NAME"),
        ("model://none/1", "MODEL_NOT_FOUND"),
    ],
)
async def test_a_name_that_stands_for_nothing_is_refused(yard: Yard, uri: str, code: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await resolve(yard, uri)
    assert reason(refused.value) == code


async def test_versions_of_an_unknown_name_are_refused_as_one_version_is(
    yard: Yard, registry: RegistryServiceStub
) -> None:
    asked: list[tuple[Any, object]] = [
        (registry.ListDatasetVersions, pb.ListDatasetVersionsRequest(project="vision", dataset="nope")),
        (registry.GetDatasetVersion, pb.GetDatasetVersionRequest(project="vision", name="nope/v1")),
        (registry.ListModelVersions, pb.ListModelVersionsRequest(project="vision", model="nope")),
        (registry.GetModelVersion, pb.GetModelVersionRequest(project="vision", name="nope/1")),
    ]
    codes = []
    for call, request in asked:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(request)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        codes.append(reason(refused.value))
    assert codes == ["DATASET_NOT_FOUND", "DATASET_NOT_FOUND", "MODEL_NOT_FOUND", "MODEL_NOT_FOUND"]
