"""What a file is called in an answer about a run or a project, when others have written the same bytes."""

from __future__ import annotations

import pytest

from runyard.artifact.v1 import artifact_service_pb2 as pb
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.run.v1.types_pb2 import Input

from .yard import Yard, new_id, sha256_of

pytestmark = pytest.mark.engines


async def test_an_input_has_the_name_that_its_own_project_gave_the_file(yard: Yard) -> None:
    data = b"dataset"
    for project, path in (("p", "old.csv"), ("p", "digits.csv"), ("q", "copy.csv"), ("", "pushed.csv")):
        committed = await yard.put(data, Origin(path=path, project=project))
    position = committed.position
    for read in (None, ReadOptions(as_of=AsOf(position=position))):
        names = []
        for project in ("p", "q", "r"):
            wanted = Input(name="data", uris=[f"datum://{sha256_of(data)}"])
            request = pb.ResolveInputsRequest(inputs=[wanted], project=project, read=read)
            [resolved] = (await yard.artifact.ResolveInputs(request)).inputs
            names += [file.path for file in resolved.files]
        assert names == ["digits.csv", "copy.csv", "pushed.csv"]


async def test_a_list_of_a_run_tells_what_that_run_made_whoever_wrote_the_same_bytes(yard: Yard) -> None:
    runs = [new_id(), new_id()]
    for number, run_id in enumerate(runs):
        for name in ("shared", "last"):
            origin = Origin(path=f"{name}-{number}.pt", run_id=run_id, attempt=1, project=f"p{number}")
            committed = await yard.put(f"{name}{number if name == 'last' else ''}".encode(), origin)
    read = ReadOptions(min_position=committed.position)

    for number, run_id in enumerate(runs):
        names: list[str] = []
        token = ""
        while not names or token:
            page = await yard.artifact.ListArtifacts(
                pb.ListArtifactsRequest(run_id=run_id, page_size=1, page_token=token, read=read)
            )
            [artifact], token = page.artifacts, page.next_page_token
            assert [each.origin.run_id for each in artifact.origins] == [run_id]
            assert [each.origin.path for each in artifact.origins] == [artifact.name]
            names.append(artifact.name)
        assert names == [f"last-{number}.pt", f"shared-{number}.pt"]
    everywhere = await yard.artifact.GetArtifact(pb.GetArtifactRequest(name=sha256_of(b"shared"), read=read))
    assert [each.origin.run_id for each in everywhere.artifact.origins] == runs
