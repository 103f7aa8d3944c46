"""The provenance graph on the command line: what is asked about, and walks as trees of lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import GetStateAsOfRequest
from runyard.lineage.v1.lineage_service_pb2 import Edge, EdgeRelation, Vertex, VertexKind
from runyard_cli.failures import ExitCode, fail
from runyard_cli.hashing import file_sha256
from runyard_cli.history.moments import subject_of
from runyard_cli.history.source import Source
from runyard_cli.names import full_run_name, looks_like_run, may_be_id
from runyard_cli.output import safe
from runyard_core.counted import count_words

_MADE_FROM = {
    EdgeRelation.EDGE_RELATION_USED: "used",
    EdgeRelation.EDGE_RELATION_WAS_GENERATED_BY: "made by",
    EdgeRelation.EDGE_RELATION_WAS_ASSOCIATED_WITH: "with",
    EdgeRelation.EDGE_RELATION_WAS_ATTRIBUTED_TO: "put by",
    EdgeRelation.EDGE_RELATION_HAD_MEMBER: "has",
    EdgeRelation.EDGE_RELATION_WAS_DERIVED_FROM: "made from",
}
_WENT_INTO = {
    EdgeRelation.EDGE_RELATION_USED: "used by",
    EdgeRelation.EDGE_RELATION_WAS_GENERATED_BY: "made",
    EdgeRelation.EDGE_RELATION_WAS_ASSOCIATED_WITH: "part of",
    EdgeRelation.EDGE_RELATION_WAS_ATTRIBUTED_TO: "put",
    EdgeRelation.EDGE_RELATION_HAD_MEMBER: "part of",
    EdgeRelation.EDGE_RELATION_WAS_DERIVED_FROM: "went into",
}
_KIND_WORDS = {
    VertexKind.VERTEX_KIND_ARTIFACT: "file",
    VertexKind.VERTEX_KIND_RUN: "run",
    VertexKind.VERTEX_KIND_CODE: "code",
    VertexKind.VERTEX_KIND_ENVIRONMENT: "environment",
    VertexKind.VERTEX_KIND_NODE: "node",
    VertexKind.VERTEX_KIND_GPU: "GPU",
    # An actor's name says what it is: "user:alice".
    VertexKind.VERTEX_KIND_ACTOR: "",
    VertexKind.VERTEX_KIND_PARAMETERS: "parameters",
    VertexKind.VERTEX_KIND_EXTERNAL: "outside",
    VertexKind.VERTEX_KIND_DATASET_VERSION: "dataset",
    VertexKind.VERTEX_KIND_MODEL_VERSION: "model",
}
_HASHED_KINDS = (VertexKind.VERTEX_KIND_ARTIFACT, VertexKind.VERTEX_KIND_CODE)
_COUNTED_KINDS = (VertexKind.VERTEX_KIND_RUN, VertexKind.VERTEX_KIND_ARTIFACT)
_VERSION_SCHEMES = ("dataset://", "model://")
_FILE_SCHEME = "datum://"


def asked_about(name: str, project: str | None) -> str:
    """Give the name that the graph knows: a file on disk is hashed, "12" becomes "digits#12".

    Ends the program when it can name nothing.
    """
    path = Path(name)
    if path.is_file():
        return file_sha256(path)
    if path.is_dir():
        fail(ExitCode.USAGE, "FILE_UNREADABLE", f"{path} is a folder: name one of its files")
    if name.startswith(_VERSION_SCHEMES):
        return f"{name}@{project}" if project and "@" not in name else name
    if looks_like_run(name):
        return full_run_name(name, project)
    if name.startswith(_FILE_SCHEME):
        return name
    if not may_be_id(name):
        advice = "Give a file on disk, a datum://, dataset:// or model:// reference, a SHA-256, or a run."
        fail(ExitCode.USAGE, "FILE_UNREADABLE", f"{name}: no such file here", advice)
    return name


async def without_alias(source: Source, name: str, project: str | None, at: AsOf | None) -> str:
    """Give the SHA-256 of the file that an alias stood for at a moment; other names as they are."""
    if not name.startswith(_FILE_SCHEME) or may_be_id(name.removeprefix(_FILE_SCHEME)):
        return name
    request = GetStateAsOfRequest(as_of=at, subject=subject_of((name,), project))
    return (await source.state(request)).file.sha256


def trace_lines(root: Vertex, edges: Sequence[Edge]) -> Iterator[str]:
    """Write what a thing came from as a tree; what was shown is named again, not repeated."""
    below: dict[tuple[int, str], list[tuple[Edge, Vertex]]] = defaultdict(list)
    for edge in edges:
        below[_key(edge.source)].append((edge, edge.target))
    return _tree(root, below, _MADE_FROM)


def impact_lines(root: Vertex, edges: Sequence[Edge]) -> Iterator[str]:
    """Write what a thing went into as a tree, and how much that is."""
    below: dict[tuple[int, str], list[tuple[Edge, Vertex]]] = defaultdict(list)
    for edge in edges:
        below[_key(edge.target)].append((edge, edge.source))
    yield from _tree(root, below, _WENT_INTO)
    yield f"touched: {_counted(edge.source for edge in edges)}"


def vertex_words(vertex: Vertex) -> str:
    """Name a vertex: its kind, its label, and the beginning of its hash where it has one."""
    shown_id = vertex.id[:12] if vertex.kind in _HASHED_KINDS else vertex.id
    label = vertex.label or shown_id
    digest = f" {shown_id}" if vertex.kind in _HASHED_KINDS and shown_id not in label else ""
    return f"{_KIND_WORDS.get(vertex.kind, 'thing')} {label}{digest}".lstrip()


def _tree(
    root: Vertex,
    below: Mapping[tuple[int, str], Sequence[tuple[Edge, Vertex]]],
    relation_words: Mapping[EdgeRelation.ValueType, str],
) -> Iterator[str]:
    shown: set[tuple[int, str]] = set()

    def walk(vertex: Vertex, indent: str) -> Iterator[str]:
        shown.add(_key(vertex))
        children = below.get(_key(vertex), ())
        for index, (edge, child) in enumerate(children):
            is_last = index == len(children) - 1
            again = _key(child) in shown and bool(below.get(_key(child)))
            is_new = edge.role not in f"{edge.source.label} {edge.target.label}"
            role = f" as {edge.role}" if edge.role and is_new else ""
            words = f"{relation_words.get(edge.relation, 'from')} {vertex_words(child)}{role}"
            yield safe(f"{indent}{'└─ ' if is_last else '├─ '}{words}{' (above)' if again else ''}")
            if not again:
                yield from walk(child, indent + ("   " if is_last else "│  "))

    yield safe(vertex_words(root))
    yield from walk(root, "")


def _counted(vertices: Iterable[Vertex]) -> str:
    kinds = {_key(vertex): vertex.kind for vertex in vertices}
    counts = [
        count_words(sum(found == kind for found in kinds.values()), _KIND_WORDS[kind])
        for kind in _COUNTED_KINDS
    ]
    return ", ".join(counts)


def _key(vertex: Vertex) -> tuple[int, str]:
    return vertex.kind, vertex.id
