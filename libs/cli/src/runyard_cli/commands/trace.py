"""``runyard trace``: where a file, run or code tree came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from runyard.lineage.v1.lineage_service_pb2 import (
    Edge,
    EdgeRelation,
    TraceRequest,
    TraceResponse,
    Vertex,
    VertexKind,
)
from runyard_cli.failures import ExitCode, fail
from runyard_cli.names import full_run_name, looks_like_run, may_be_id, project_option
from runyard_cli.output import is_json, note, output_option, safe, say, say_json
from runyard_cli.session import converse, get_run
from runyard_client import Client
from runyard_client.files import hash_file

_RELATION_WORDS = {
    EdgeRelation.EDGE_RELATION_USED: "used",
    EdgeRelation.EDGE_RELATION_WAS_GENERATED_BY: "made by",
    EdgeRelation.EDGE_RELATION_WAS_ASSOCIATED_WITH: "with",
    EdgeRelation.EDGE_RELATION_WAS_ATTRIBUTED_TO: "put by",
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
}
_HASHED_KINDS = (VertexKind.VERTEX_KIND_ARTIFACT, VertexKind.VERTEX_KIND_CODE)


@click.command("trace")
@click.argument("name")
@project_option
@click.option("--depth", type=click.IntRange(1, 100), default=None, help="Steps to walk; 32 by default.")
@output_option
def command(name: str, project: str | None, depth: int | None) -> None:
    """Show where NAME came from: a file on disk (it is hashed), a datum:// reference, a SHA-256, or a run."""
    path = Path(name)
    is_file = path.is_file()
    may_be_known = looks_like_run(name) or may_be_id(name.removeprefix("datum://"))
    if not is_file and not may_be_known:
        advice = "Give a file on disk, a datum:// reference, a SHA-256, or a run."
        fail(ExitCode.USAGE, "FILE_UNREADABLE", f"{name}: no such file here", advice)

    async def ask(client: Client) -> TraceResponse:
        wanted = name
        if looks_like_run(name) and not is_file:
            wanted = (await get_run(client, full_run_name(name, project))).run_id
        elif is_file:
            file = hash_file(path)
            wanted = file.sha256
            if not is_json():
                note(f"{path} has SHA-256 {file.sha256}")
        return await client.lineage.Trace(TraceRequest(name=wanted, depth_max=depth or 0))

    answer = converse(ask)
    if is_json():
        say_json(answer)
        return
    for line in trace_lines(answer.root, answer.edges):
        say(line)
    if answer.truncated:
        note("the walk was cut: --depth shows more")


def trace_lines(root: Vertex, edges: Sequence[Edge]) -> Iterator[str]:
    """Write the graph as a tree from its root; what was shown is named again, not repeated."""
    below: dict[tuple[int, str], list[Edge]] = defaultdict(list)
    for edge in edges:
        below[_key(edge.source)].append(edge)
    shown: set[tuple[int, str]] = set()

    def walk(vertex: Vertex, indent: str) -> Iterator[str]:
        shown.add(_key(vertex))
        children = below[_key(vertex)]
        for index, edge in enumerate(children):
            is_last = index == len(children) - 1
            again = _key(edge.target) in shown and bool(below[_key(edge.target)])
            is_new = edge.role not in f"{edge.source.label} {edge.target.label}"
            role = f" as {edge.role}" if edge.role and is_new else ""
            words = f"{_RELATION_WORDS.get(edge.relation, 'from')} {vertex_words(edge.target)}{role}"
            yield safe(f"{indent}{'└─ ' if is_last else '├─ '}{words}{' (above)' if again else ''}")
            if not again:
                yield from walk(edge.target, indent + ("   " if is_last else "│  "))

    yield safe(vertex_words(root))
    yield from walk(root, "")


def vertex_words(vertex: Vertex) -> str:
    """Name a vertex: its kind, its label, and the beginning of its hash where it has one."""
    label = vertex.label or vertex.id
    digest = f" {vertex.id[:12]}" if vertex.kind in _HASHED_KINDS and vertex.id[:12] not in label else ""
    return f"{_KIND_WORDS.get(vertex.kind, 'thing')} {label}{digest}".lstrip()


def _key(vertex: Vertex) -> tuple[int, str]:
    return vertex.kind, vertex.id
