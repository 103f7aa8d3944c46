"""Models, datasets, aliases and projects at any moment."""

from __future__ import annotations

import pytest

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.registry_events_pb2 import (
    ArtifactAliasMoved,
    ArtifactPropertiesSet,
    ArtifactTagged,
    DatasetAliasMoved,
    DatasetVersionCreated,
    ModelVersionRegistered,
)
from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import (
    DiffStatesRequest,
    GetStateAsOfRequest,
    GetStateAsOfResponse,
    ReadTimelineRequest,
    Subject,
    SubjectKind,
)
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import InputFile
from runyard_core.errors import Ambiguous, NotFound, RunyardError
from runyard_replay.reading.comparing import diff_states
from runyard_replay.reading.states import state_as_of
from runyard_replay.reading.timelines import read_timeline

from .yard import AGENT, ALICE, DATA, LATER_RUN, MODEL, RUN, Yard, yard_with_a_finished_run

PROJECT = SubjectKind.SUBJECT_KIND_PROJECT


async def yard_with_names() -> Yard:
    """A finished run that made a model and two versions of a dataset; "newest" moves from v1 to v2."""
    yard = await yard_with_a_finished_run()
    origin = Origin(run_id=RUN, attempt=1, project="digits")
    file = VersionFile(path="model.npz", sha256=MODEL, size_bytes=9)
    await yard.write(
        "model",
        "digits.resnet",
        ModelVersionRegistered(
            project="digits", model="resnet", version=1, files=[file], tags=["small"], origin=origin
        ),
        AGENT,
    )
    for version, before in (("v1", ""), ("v2", "v1")):
        await yard.write(
            "dataset",
            "digits.images",
            DatasetVersionCreated(project="digits", dataset="images", version=version, files=[file]),
            ALICE,
        )
        await yard.write(
            "dataset",
            "digits.images",
            DatasetAliasMoved(
                project="digits", dataset="images", alias="newest", version=version, previous_version=before
            ),
            ALICE,
        )
    return yard


async def shown(yard: Yard, subject: Subject, position: int = 0) -> GetStateAsOfResponse:
    as_of = AsOf(position=position) if position else AsOf()
    return await state_as_of(yard.log, GetStateAsOfRequest(as_of=as_of, subject=subject), yard.clock)


async def timeline(yard: Yard, name: str) -> list[str]:
    request = ReadTimelineRequest(subject=Subject(name=name), domain_only=True)
    entries = read_timeline(yard.log, request, yard.clock)
    return [entry.event.envelope.type.removeprefix("runyard.") async for entry in entries]


async def refusal(yard: Yard, subject: Subject, position: int = 0) -> RunyardError:
    with pytest.raises(RunyardError) as refused:
        await shown(yard, subject, position)
    return refused.value


async def test_a_model_is_shown_with_its_versions_and_one_version_with_its_files() -> None:
    yard = await yard_with_names()
    model = (await shown(yard, Subject(name="model://resnet"))).model
    assert [(each.version, list(each.tags), each.registered_by) for each in model.versions] == [
        (1, ["small"], "agent:n1")
    ]
    assert not model.versions[0].files
    one = (await shown(yard, Subject(kind=SubjectKind.SUBJECT_KIND_MODEL, name="resnet/1"))).model
    assert [file.sha256 for file in one.versions[0].files] == [MODEL]
    assert (await refusal(yard, Subject(name="model://resnet/2"))).code == "MODEL_VERSION_NOT_FOUND"


async def test_an_alias_of_a_dataset_stands_for_the_version_of_that_moment() -> None:
    yard = await yard_with_names()
    head = (await yard.log.head()).domain_position
    newest = Subject(name="dataset://images/newest")
    assert (await shown(yard, newest, head - 1)).dataset.versions[0].version == "v1"
    assert (await shown(yard, newest)).dataset.versions[0].version == "v2"
    versions = (await shown(yard, Subject(name="dataset://images"))).dataset.versions
    assert [(each.version, list(each.aliases)) for each in versions] == [("v2", ["newest"]), ("v1", [])]
    assert isinstance(await refusal(yard, newest, head - 4), NotFound)


async def test_an_alias_of_a_file_stands_for_the_file_of_that_moment() -> None:
    yard = await yard_with_a_finished_run()
    await yard.write("artifact", DATA, written(DATA), ALICE)
    for sha256 in (MODEL, DATA):
        moved = ArtifactAliasMoved(project="digits", alias="best", sha256=sha256)
        await yard.write("alias", "digits.best", moved, ALICE)
    head = (await yard.log.head()).domain_position
    best = Subject(name="datum://best")
    assert (await shown(yard, best, head - 1)).file.sha256 == MODEL
    assert (await shown(yard, best)).file.sha256 == DATA
    # One that might begin a hash is an alias when no file begins so.
    moved = ArtifactAliasMoved(project="digits", alias="beef", sha256=DATA)
    await yard.write("alias", "digits.beef", moved, ALICE)
    assert (await shown(yard, Subject(name="datum://beef"))).file.sha256 == DATA


async def test_a_file_is_shown_with_what_runs_said_of_it() -> None:
    yard = await yard_with_a_finished_run()
    await yard.write("artifact", MODEL, ArtifactTagged(sha256=MODEL, tags=["good", "small"]), AGENT)
    await yard.write("artifact", MODEL, ArtifactTagged(sha256=MODEL, tags=["good", "best"]), AGENT)
    said = ArtifactPropertiesSet(sha256=MODEL)
    said.properties.update({"accuracy": 0.5, "kind": "cnn"})
    await yard.write("artifact", MODEL, said, AGENT)
    said.properties.update({"accuracy": 0.9})
    await yard.write("artifact", MODEL, said, AGENT)
    file = (await shown(yard, Subject(name=MODEL))).file
    assert list(file.tags) == ["good", "small", "best"]
    assert dict(file.properties) == {"accuracy": 0.9, "kind": "cnn"}


async def test_a_name_that_several_projects_have_asks_for_the_project() -> None:
    yard = await yard_with_names()
    other = ModelVersionRegistered(project="other", model="resnet", version=1)
    await yard.write("model", "other.resnet", other, ALICE)
    refused = await refusal(yard, Subject(name="model://resnet"))
    assert isinstance(refused, Ambiguous)
    assert "digits, other" in refused.message
    for subject in (Subject(name="model://resnet@other"), Subject(name="model://resnet", project="other")):
        assert (await shown(yard, subject)).model.project == "other"
    assert (await refusal(yard, Subject(name="model://resnet@none"))).code == "MODEL_NOT_FOUND"


async def test_a_project_is_shown_with_all_that_is_kept_under_it() -> None:
    yard = await yard_with_names()
    for name in ("HF_TOKEN", "OLD"):
        await yard.write("project", "digits", ev.ProjectSecretSet(project="digits", name=name), ALICE)
    before = (await yard.log.head()).domain_position
    await yard.write("project", "digits", ev.ProjectSecretRemoved(project="digits", name="OLD"), ALICE)
    moved = ArtifactAliasMoved(project="digits", alias="best", sha256=MODEL)
    await yard.write("alias", "digits.best", moved, ALICE)
    await yard.write("project", "other", ev.ProjectSecretSet(project="other", name="ELSEWHERE"), ALICE)
    subject = Subject(kind=PROJECT, name="digits")
    then, now = (await shown(yard, subject, before)).project, (await shown(yard, subject)).project
    assert [secret.name for secret in then.secrets] == ["HF_TOKEN", "OLD"]
    assert [(secret.name, secret.changed_by) for secret in now.secrets] == [("HF_TOKEN", "user:alice")]
    assert [(alias.alias, alias.sha256) for alias in now.aliases] == [("best", MODEL)]
    assert [(each.name, each.version_count, each.newest_version) for each in now.datasets] == [
        ("images", 2, "v2")
    ]
    assert [(each.name, each.newest_version) for each in now.models] == [("resnet", 1)]
    assert now.run_count == 1
    request = DiffStatesRequest(begin=AsOf(position=before), subject=subject)
    differing = await diff_states(yard.log, request, yard.clock)
    assert {change.path for change in differing.changes} >= {"secrets[OLD].name", "aliases[best].sha256"}
    assert {count.type for count in differing.events} == {
        "runyard.project.secret_removed",
        "runyard.artifact.alias_moved",
    }


async def test_the_timeline_of_a_model_has_its_run_and_every_run_that_got_its_files() -> None:
    yard = await yard_with_names()
    user = await yard.lease(await yard.queue(LATER_RUN, 2), LATER_RUN)
    fetched = ev.RunInputFetched(run_id=LATER_RUN, attempt=1, epoch=1, file=InputFile(sha256=MODEL))
    await yard.write("run", LATER_RUN, fetched, AGENT, group=LATER_RUN, cause=user)
    whole = await timeline(yard, "model://resnet")
    assert whole.count("model.version_registered") == 1
    assert whole.count("run.queued") == 2
    assert "run.input_fetched" in whole
    # Of one version: also what the node did for its run.
    assert "node.gpus_reserved" not in whole
    assert "node.gpus_reserved" in await timeline(yard, "model://resnet/1")
    # The file itself tells of the same run.
    assert "run.input_fetched" in await timeline(yard, MODEL)


async def test_the_timeline_of_a_datasets_version_leaves_the_others_out() -> None:
    yard = await yard_with_names()
    assert (await timeline(yard, "dataset://images")).count("dataset.version_created") == 2
    of_first = await timeline(yard, "dataset://images/v1")
    assert of_first == ["dataset.version_created", "dataset.alias_moved", "dataset.alias_moved"]
    assert await timeline(yard, "dataset://images/newest") == of_first[:2]


def written(sha256: str) -> ArtifactWritten:
    return ArtifactWritten(sha256=sha256, size_bytes=4, origin=Origin(path="data.bin"))
