"""Every RPC of every service, sorted by what it has to do with moments."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module

from google.protobuf.descriptor import Descriptor, MethodDescriptor

import runyard
from runyard.event.v1.read_pb2 import AsOf, ReadOptions

CHANGES = frozenset(
    {
        "AgentService.Attach",
        "ArtifactService.BeginUpload",
        "ArtifactService.BeginUploads",
        "ArtifactService.CommitUpload",
        "ArtifactService.CommitUploads",
        "ArtifactService.RecordCodeSnapshot",
        "CostService.SetPrice",
        "EnrolmentService.EnrollNode",
        "EnrolmentService.InviteNode",
        "EnrolmentService.RevokeNode",
        "HistoryService.DisputeEvent",
        "HistoryService.ErasePerson",
        "ProjectionService.DropBuilds",
        "ProjectionService.RebuildProjection",
        "ProjectionService.RequeueDeadLetters",
        "RegistryService.DescribeOutputs",
        "SchedulerService.StopRun",
        "SchedulerService.SubmitRun",
        "SecretService.RemoveSecret",
        "SecretService.SetSecret",
    }
)
"""Ask for something to happen."""
WATCHES = frozenset({"HistoryService.WatchEvents", "MetricService.WatchRun", "SchedulerService.WatchRuns"})
"""Go on from a place that the caller names."""
NOT_OF_A_MOMENT = {
    "ArtifactService.FindMissingBlobs": "what the store has now",
    "ArtifactService.GetDownload": "bytes never change; whether they are there is the store's",
    "ArtifactService.GetDownloads": "bytes never change; whether they are there is the store's",
    "EnrolmentService.WatchBusUsers": "who may use the bus now",
    "HandsOnService.Connect": "bytes of a session",
    "HandsOnService.Exec": "bytes of a session",
    "HandsOnService.Forward": "bytes of a session",
    "HandsOnAgentService.Join": "bytes of a session",
    "HistoryService.GetLogHead": "where the log is now",
    "HistoryService.ListEvents": "the log itself, between two positions",
    "MetricService.GetCommittedMark": "what of an agent's spool has arrived by now",
    "ProjectionService.GetDeadLetter": "what is the matter with a read model now",
    "ProjectionService.ListDeadLetters": "what is the matter with a read model now",
    "ProjectionService.ListProjections": "how far a read model is now",
    "ProjectionService.VerifyProjection": "whether a read model is what it should be now",
}
"""Reads that cannot be about the past, each with the reason."""


def methods() -> Iterator[MethodDescriptor]:
    """Give every RPC that the generated code knows."""
    found = pkgutil.walk_packages(runyard.__path__, "runyard.")
    names = [module.name for module in found if module.name.endswith("_pb2")]
    for name in sorted(names):
        for service in import_module(name).DESCRIPTOR.services_by_name.values():
            yield from service.methods


def short_name(method: MethodDescriptor) -> str:
    """Name an RPC: "SchedulerService.GetRun"."""
    return f"{method.containing_service.name}.{method.name}"


def reads() -> list[MethodDescriptor]:
    """Give every RPC that shows state of the log: whatever was not named as something else."""
    others = CHANGES | WATCHES | NOT_OF_A_MOMENT.keys()
    return [method for method in methods() if short_name(method) not in others]


def names_a_moment(request: Descriptor) -> bool:
    """Say whether a request can ask about the past."""
    moments = (AsOf.DESCRIPTOR.full_name, ReadOptions.DESCRIPTOR.full_name)
    return any(field.message_type and field.message_type.full_name in moments for field in request.fields)


def is_paged(request: Descriptor) -> bool:
    """Say whether the answer comes in pages."""
    return "page_token" in request.fields_by_name
