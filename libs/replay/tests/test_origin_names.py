"""What files are called in answers about runs and projects, when others have written the same bytes."""

from __future__ import annotations

from typing import cast

from google.protobuf.message import Message

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.registry_events_pb2 import ModelVersionRegistered
from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard.artifact.v1.types_pb2 import Origin
from runyard.lineage.v1.lineage_service_pb2 import (
    ImpactRequest,
    ImpactResponse,
    TraceRequest,
    TraceResponse,
    VertexKind,
)
from runyard.run.v1.events_pb2 import RunQueued, RunStarted
from runyard.run.v1.types_pb2 import Input, InputFile, RunSpec
from runyard_contracts.ids import sha256_of
from runyard_core.clock import ManualClock
from runyard_replay.reading.tracing import impact, trace

from .yard import START, Yard

FIRST, LATER, ELSEWHERE, READER = (f"0198{digit * 4}-0000-7000-8000-00000000000{digit}" for digit in "abcd")
FILE = sha256_of(b"the same bytes")
PUSHED, LONG = Origin(path="pushed/by-hand.pt"), "deep/" * 60 + "long.pt"


async def a_yard() -> Yard:
    """Two runs of p and one of q leave the same bytes under their own names; a run of p reads them."""
    yard = Yard()
    runs = {FIRST: ("p", 1), LATER: ("p", 2), ELSEWHERE: ("q", 1), READER: ("p", 3)}
    for run_id, (project, number) in runs.items():
        queued = RunQueued(run_id=run_id, project=project, number=number, spec=RunSpec(step="train"))
        await yard.write("run", run_id, queued)
    await written(yard, Origin(path="out/first.pt", run_id=FIRST, attempt=1))
    await written(yard, Origin(path="out/later.pt", run_id=LATER, attempt=1))
    await written(yard, Origin(path="out/elsewhere.pt", run_id=ELSEWHERE, attempt=1))
    used = Input(name="data", files=[InputFile(uri=f"datum://{FILE}", sha256=FILE)])
    await yard.write("run", READER, RunStarted(run_id=READER, attempt=1, inputs=[used]))
    for project, run_id in (("p", LATER), ("q", ELSEWHERE)):
        made: Message = ModelVersionRegistered(
            project=project, model="net", version=1, files=[VersionFile(path="m", sha256=FILE)],
            origin=Origin(run_id=run_id, attempt=1),
        )  # fmt: skip
        await yard.write("model", f"{project}.net", made)
    await written(yard, PUSHED)
    return yard


async def written(yard: Yard, origin: Origin) -> None:
    await yard.write("artifact", FILE, ArtifactWritten(sha256=FILE, size_bytes=1, origin=origin))


async def named(yard: Yard, name: str) -> tuple[set[str], set[str]]:
    """Give what the file is called in a trace and in an impact of something."""
    clock = ManualClock(START)
    up = await trace(yard.log, TraceRequest(name=name), clock)
    down = await impact(yard.log, ImpactRequest(name=name), clock)
    return (_names(up), _names(down))


def _names(answer: TraceResponse | ImpactResponse) -> set[str]:
    vertices = [answer.root, *(end for edge in answer.edges for end in (edge.source, edge.target))]
    kind = cast("int", VertexKind.VERTEX_KIND_ARTIFACT)
    return {vertex.label for vertex in vertices if vertex.kind == kind}


async def test_a_file_goes_by_the_name_that_the_run_in_question_gave_it() -> None:
    yard = await a_yard()
    for run_id, name in ((FIRST, "first.pt"), (LATER, "later.pt"), (ELSEWHERE, "elsewhere.pt")):
        up, down = await named(yard, run_id)
        assert (up, down) == (set(), {name})


async def test_a_file_that_a_run_used_goes_by_its_newest_name_in_the_project_of_the_run() -> None:
    up, _ = await named(await a_yard(), READER)
    assert up == {"later.pt"}


async def test_a_file_of_a_version_goes_by_its_newest_name_in_the_project_of_the_version() -> None:
    yard = await a_yard()
    assert (await named(yard, "model://net/1@p"))[0] == {"later.pt"}
    assert (await named(yard, "model://net/1@q"))[0] == {"elsewhere.pt"}


async def test_a_file_itself_and_what_its_pusher_left_go_by_the_newest_name_of_all() -> None:
    yard = await a_yard()
    assert await named(yard, FILE) == ({"by-hand.pt"}, {"by-hand.pt"})
    assert (await named(yard, "service:scheduler"))[1] == {"by-hand.pt"}


async def test_a_name_that_is_too_long_for_an_edge_is_not_guessed() -> None:
    yard = await a_yard()
    await written(yard, Origin(path=LONG, run_id=FIRST, attempt=1))
    assert (await named(yard, FIRST))[1] == {"first.pt"}
    await written(yard, Origin(path="even/later.pt", run_id=FIRST, attempt=1))
    assert (await named(yard, FIRST))[1] == {"later.pt"}
